"""The intervals of measured ratios."""

import time

from benchmark.timing import interval, median_and_interval, seconds


def test_interval_holds_the_median_and_narrows_with_agreement() -> None:
    low, high = interval([0.9, 1.0, 1.0, 1.0, 1.1])

    assert low <= 1.0 <= high and low >= 0.9 and high <= 1.1
    assert interval([1.0] * 5) == (1.0, 1.0)


def test_a_ratio_is_printed_with_its_interval() -> None:
    assert median_and_interval([0.5] * 3) == "0.5000 [0.5000, 0.5000]"
    assert median_and_interval([0.5] * 3, digits=2) == "0.50 [0.50, 0.50]"


def test_seconds_returns_the_duration_of_a_call() -> None:
    assert 0.01 <= seconds(lambda: time.sleep(0.01)) < 1
