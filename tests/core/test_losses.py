"""Mean losses over positions and over sequences, with and without valid positions."""

import math

import pytest
import torch
from hypothesis import given

from core.losses import all_finite, mean_loss, per_sequence
from tests.loss_modifiers.batches import Tokens, quick, row_means, same, token_batches


@quick
@given(batch=token_batches)
def test_per_sequence_is_the_mean_of_a_rows_valid_positions(batch: Tokens) -> None:
    same(per_sequence(batch.loss + 1, batch.mask), row_means((batch.loss + 1).tolist(), batch.mask.tolist()))


def test_per_sequence_ignores_positions_off_the_mask_even_nan() -> None:
    loss = torch.tensor([[1.0, math.nan], [math.nan, math.inf]], requires_grad=True)
    means = per_sequence(loss, torch.tensor([[True, False], [False, False]]))
    means.sum().backward()

    assert means.tolist() == [1.0, 0.0]
    assert loss.grad is not None and loss.grad.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_per_sequence_returns_a_loss_that_is_per_sequence_already() -> None:
    loss = torch.rand(3)

    assert per_sequence(loss, torch.rand(3, 4) < 0.5) is loss


def test_mean_loss_is_over_valid_positions_or_rows_with_a_valid_position() -> None:
    mask = torch.tensor([[True, True], [True, False], [False, False]])

    assert mean_loss(torch.tensor([[1.0, 2.0], [6.0, 9.0], [9.0, 9.0]]), mask) == 3.0
    assert mean_loss(torch.tensor([1.0, 4.0, 9.0]), mask) == 2.5
    assert mean_loss(torch.tensor([1.0, 4.0]), torch.tensor([True, True])) == 2.5
    assert mean_loss(torch.rand(2, 2), torch.zeros(2, 2, dtype=torch.bool)) == 0.0


def test_mean_loss_ignores_invalid_positions_and_rows_without_valid_ones() -> None:
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    positions = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan], [2.0, 6.0]], requires_grad=True)

    assert mean_loss(positions, mask) == 3.0
    assert mean_loss(torch.tensor([1.0, 50.0, 2.0]), mask) == 1.5
    empty = mean_loss(positions, torch.zeros_like(mask))
    empty.backward()
    assert empty == 0.0 and positions.grad is not None and positions.grad.eq(0).all()


@pytest.mark.parametrize(("number", "finite"), [(1e38, True), (math.nan, False), (math.inf, False), (-math.inf, False)])
def test_all_finite_is_false_for_one_non_finite_number(number: float, finite: bool) -> None:
    values = torch.full((2, 3), 1e38, requires_grad=True)  # their sum overflows
    result = all_finite(values.where(torch.arange(3) != 1, number))

    assert result.dtype == torch.bool and result.shape == () and not result.requires_grad
    assert result.item() is finite
