"""The interface of a loss modifier, and functions that several modifiers use."""

import pytest
import torch

import loss_modifiers
from loss_modifiers.base import TRAINING_TYPES, LossModifier, at_least_float32, change_metrics, sample_std
from tests.loss_modifiers.batches import std, tokens


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


def test_change_metrics_are_the_losses_before_and_after() -> None:
    loss = torch.tensor([2.0, 4.0], requires_grad=True)
    found = change_metrics(loss, loss * 3, torch.tensor([True, True]))

    assert (found["original_loss"], found["final_loss"]) == (3.0, 9.0)
    assert found["loss_ratio"].item() == pytest.approx(3.0)
    assert not found["final_loss"].requires_grad


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [1.0, 1.0], [3.0]])
def test_sample_std_is_the_sample_standard_deviation(values: list[float]) -> None:
    assert sample_std(torch.tensor(values)).item() == pytest.approx(std(values))


def test_half_precision_becomes_float32_and_float64_stays() -> None:
    fine = tokens().logits

    assert at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert at_least_float32(fine) is fine
