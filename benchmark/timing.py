"""Timings and the intervals of their ratios."""

import random
import statistics
import time
from collections.abc import Callable, Sequence


def seconds(work: Callable[[], object]) -> float:
    """Return the wall-clock time that `work()` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interval(values: Sequence[float], draws: int = 10_000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(draws))
    return medians[round(0.025 * draws)], medians[round(0.975 * draws) - 1]


def median_and_interval(ratios: Sequence[float], digits: int = 4, draws: int = 10_000) -> str:
    """Return the median of ratios and its 95 % interval as text."""
    low, high = interval(ratios, draws)
    return f"{statistics.median(ratios):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
