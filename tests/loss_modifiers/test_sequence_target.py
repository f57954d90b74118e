"""The transform of a sequence scorer's targets."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_modifiers import sequence_scorer_target_transform
from tests.loss_modifiers.batches import quick, same


@quick
@given(x=st.floats(0, 1))
def test_formula(x: float) -> None:
    same(sequence_scorer_target_transform(torch.tensor([x], dtype=torch.float64)), [x * x * x * (x - 2) + 2 * x])


def test_it_rises_from_zero_to_one_and_is_concave() -> None:
    y = sequence_scorer_target_transform(torch.linspace(0, 1, 1001, dtype=torch.float64))

    same(y[[0, 500, 1000]], [0.0, 0.8125, 1.0])
    assert (y.diff() > 0).all()
    assert (y.diff().diff() < 1e-12).all()
