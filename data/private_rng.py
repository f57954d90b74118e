"""Private random generators for training data, seeded with numbers such as seed, rank, purpose and batch number."""

import operator

import numpy as np
import torch


def generator(*numbers: int) -> torch.Generator:
    """Return a CPU generator that depends only on these numbers, their order and their count.

    The same numbers give the same draws in every process; other numbers, even adjacent ones, give unrelated draws.
    Exceptions: torch uses 32 bits of the seed, so about one pair in 4 * 10**9 collides, and numbers that are equal
    modulo 2**64 count as equal.
    """
    words = [len(numbers)]  # numpy pads short seeds with zeros: without the count, (7,) and (7, 0) would be equal
    for number in numbers:
        bits = operator.index(number) % 2**64  # negative seeds are valid
        words += [bits % 2**32, bits // 2**32]  # always two words: else (2**32, 1) and (0, 1 + 2**32) would be equal
    state = np.random.SeedSequence(words).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))
