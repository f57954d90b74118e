"""The contract of a loss modifier, and what several of them compute alike."""

import math

import pytest
import torch
from hypothesis import given

import loss_modifiers
from loss_modifiers.base import TRAINING_TYPES, LossModifier, change, mean_loss, per_sequence, spread, widened
from tests.loss_modifiers.batches import Tokens, quick, row_means, same, std, token_batches, tokens


class Halving(LossModifier):
    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        self._metrics = {"half": loss.mean() / 2}
        return loss / 2


def test_a_modifier_must_modify() -> None:
    with pytest.raises(TypeError, match="modify"):
        LossModifier()  # type: ignore[abstract]


def test_a_modifier_need_not_have_more() -> None:
    plain = Halving()
    plain.load_state_dict({})

    assert (plain.metrics(), plain.state_dict()) == ({}, {})
    assert (plain.iter_num, plain.inputs, plain.training_types) == (0, None, TRAINING_TYPES)


def test_metrics_are_those_of_the_last_call_until_reset() -> None:
    one, other = Halving(), Halving()
    one.modify(torch.tensor([4.0]), *3 * [torch.tensor([0.0])])
    one.metrics()["half"] = torch.tensor(7.0)  # a copy

    assert (one.metrics(), other.metrics()) == ({"half": 2.0}, {})
    one.reset_metrics()
    assert one.metrics() == {}


def test_public_names_exist() -> None:
    assert loss_modifiers.__all__ == sorted(loss_modifiers.__all__)
    assert all(hasattr(loss_modifiers, name) for name in loss_modifiers.__all__)


@quick
@given(batch=token_batches)
def test_per_sequence_is_the_mean_of_a_rows_valid_positions(batch: Tokens) -> None:
    same(per_sequence(batch.loss + 1, batch.mask), row_means((batch.loss + 1).tolist(), batch.mask.tolist()))


def test_per_sequence_leaves_out_what_is_off_the_mask_even_nan() -> None:
    loss = torch.tensor([[1.0, math.nan], [math.nan, math.inf]], requires_grad=True)
    found = per_sequence(loss, torch.tensor([[True, False], [False, False]]))
    found.sum().backward()

    assert found.tolist() == [1.0, 0.0]
    assert loss.grad is not None and loss.grad.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_per_sequence_passes_on_a_loss_that_is_per_sequence_already() -> None:
    loss = torch.rand(3)

    assert per_sequence(loss, torch.rand(3, 4) < 0.5) is loss


def test_mean_loss_is_over_valid_positions_or_over_rows_that_have_any() -> None:
    mask = torch.tensor([[True, True], [True, False], [False, False]])

    assert mean_loss(torch.tensor([[1.0, 2.0], [6.0, 9.0], [9.0, 9.0]]), mask) == 3.0
    assert mean_loss(torch.tensor([1.0, 4.0, 9.0]), mask) == 2.5
    assert mean_loss(torch.tensor([1.0, 4.0]), torch.tensor([True, True])) == 2.5
    assert mean_loss(torch.rand(2, 2), torch.zeros(2, 2, dtype=torch.bool)) == 0.0


def test_change_tells_the_loss_before_and_after() -> None:
    loss = torch.tensor([2.0, 4.0], requires_grad=True)
    found = change(loss, loss * 3, torch.tensor([True, True]))

    assert (found["original_loss"], found["final_loss"]) == (3.0, 9.0)
    assert found["loss_ratio"].item() == pytest.approx(3.0)
    assert not found["final_loss"].requires_grad


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [1.0, 1.0], [3.0]])
def test_spread_is_the_sample_standard_deviation(values: list[float]) -> None:
    assert spread(torch.tensor(values)).item() == pytest.approx(std(values))


def test_widened_raises_half_precision_and_leaves_the_rest() -> None:
    fine = tokens().logits

    assert widened(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert widened(fine) is fine
