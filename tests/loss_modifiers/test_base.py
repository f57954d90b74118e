"""The contract of a loss modifier."""

import pytest
import torch

import loss_modifiers
from loss_modifiers.base import LossModifier


class Halving(LossModifier):
    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        return loss / 2


def test_a_modifier_must_modify() -> None:
    with pytest.raises(TypeError, match="modify"):
        LossModifier()  # type: ignore[abstract]


def test_a_modifier_need_not_have_metrics() -> None:
    assert Halving().metrics() == {}


def test_public_names_exist() -> None:
    assert loss_modifiers.__all__ == sorted(loss_modifiers.__all__)
    assert all(hasattr(loss_modifiers, name) for name in loss_modifiers.__all__)
