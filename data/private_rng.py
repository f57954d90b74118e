"""Random generators of their own for training data, made from plain numbers such as seed, rank, purpose and count."""

import operator

import numpy as np
import torch


def generator(*numbers: int) -> torch.Generator:
    """Return a CPU generator that depends on these numbers, their order and their count, and on nothing else.

    The same numbers give the same draws in every process. Other numbers, even neighbouring ones, give unrelated draws,
    but for about one pair in four thousand million: torch keeps 32 bits of a seed. Numbers equal modulo 2**64 are one.
    """
    words = [len(numbers)]  # numpy fills short seeds up with zeros: without the count, (7,) and (7, 0) would be one
    for number in numbers:
        bits = operator.index(number) % 2**64  # negative seeds are seeds as well
        words += [bits % 2**32, bits // 2**32]  # always two: else (2**32, 1) and (0, 1 + 2**32) would be one
    state = np.random.SeedSequence(words).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))
