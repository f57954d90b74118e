"""The order of rows: a function of seeds and the row's number alone, the same under every version of any library."""

import numpy as np

Numbers = np.ndarray


def keys(numbers: Numbers, *seeds: int) -> Numbers:
    """Return a random key (uint64) for each number. Other seeds give independent keys.

    Each round is the mixer of SplitMix64: Steele et al. 2014, https://doi.org/10.1145/2660193.2660195
    """
    state = numbers.astype(np.uint64)
    with np.errstate(over="ignore"):
        for seed in seeds:
            state = state + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def shuffled(count: int, *seeds: int) -> Numbers:
    """Return the numbers from 0 to count - 1 in a random order."""
    return np.argsort(keys(np.arange(count), *seeds), kind="stable")


def validates(numbers: Numbers, share: float, seed: int) -> Numbers:
    """Return for each row whether it belongs to the validation rows, which are this share of all rows."""
    return keys(numbers, seed) < np.uint64(min(int(share * 2.0**64), 2**64 - 1))
