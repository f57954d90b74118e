"""Moving averages."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_modifiers.moving_average import MovingAverage
from tests.loss_modifiers.batches import quick, same

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8)


@quick
@given(values=VALUES, keep=st.floats(0, 1), start=st.none() | st.integers(-3, 3).map(float))
def test_it_is_an_exponential_moving_average(values: list[float], keep: float, start: float | None) -> None:
    average = MovingAverage(keep, start)
    expected = values[0] if start is None else start
    for value in values:
        expected = keep * expected + (1 - keep) * value
        found = average.update(torch.tensor(value, dtype=torch.float64, requires_grad=True))

    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert not found.requires_grad and average.value is found


def test_non_finite_values_are_skipped() -> None:
    average = MovingAverage(0.5)
    found = [average.update(torch.tensor(value)).item() for value in (math.nan, 2.0, math.inf, 4.0, -math.inf)]

    assert math.isnan(found[0]) and found[1:] == [2.0, 2.0, 3.0, 3.0]


def test_an_update_leaves_an_older_value_as_it_was() -> None:
    average = MovingAverage(0.5, start=1.0)
    saved = average.value
    average.update(torch.tensor(5.0))

    assert saved is not None and saved.item() == 1.0
    same(average.update(torch.tensor(3.0)), 3.0)
