"""Several modifiers in a row, alone and inside a language model's objective."""

import itertools

import pytest
import torch

from core.objective import LanguageModeling
from loss_modifiers import LossModifier, LossModifierPipeline
from model import GPT


class Times(LossModifier):
    """Multiplies by a factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        return loss * self.factor

    def metrics(self) -> dict[str, torch.Tensor]:
        return {"factor": torch.tensor(self.factor)}


class Plus(LossModifier):
    """Adds one."""

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        return loss + 1


class PerSequence(LossModifier):
    """Turns (B, T) into the mean of each sequence's valid positions, weighed by their number, and keeps all it gets."""

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        self.got = loss, logits, targets, mask
        return (loss * mask).sum(dim=1)

    def metrics(self) -> dict[str, torch.Tensor]:
        return {"valid": self.got[3].sum(), "largest": self.got[0].max()}


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return loss, logits, targets and mask of 2 sequences of 3 tokens."""
    loss, targets = torch.rand(2, 3), torch.tensor([[1, 2, -1], [0, -1, 3]])
    return loss, torch.rand(2, 3, 4), targets, targets != -1


def test_an_empty_pipeline_returns_the_loss_itself(inputs: tuple[torch.Tensor, ...]) -> None:
    pipeline = LossModifierPipeline()

    assert pipeline.modify(*inputs) is inputs[0]
    assert pipeline.metrics() == {}


@pytest.mark.parametrize("order", list(itertools.permutations(["times", "plus", "again"])))
def test_modifiers_are_applied_in_the_order_given(inputs: tuple[torch.Tensor, ...], order: list[str]) -> None:
    modifiers = {"times": Times(3.0), "plus": Plus(), "again": Times(-0.5)}
    steps = {"times": lambda x: x * 3.0, "plus": lambda x: x + 1, "again": lambda x: x * -0.5}
    expected = inputs[0]
    for name in order:
        expected = steps[name](expected)

    assert torch.equal(LossModifierPipeline([modifiers[name] for name in order]).modify(*inputs), expected)


def test_every_modifier_sees_the_same_logits_targets_and_mask(inputs: tuple[torch.Tensor, ...]) -> None:
    last = PerSequence()
    LossModifierPipeline([Times(2.0), Plus(), last]).modify(*inputs)

    assert torch.equal(last.got[0], inputs[0] * 2 + 1)
    assert all(ours is given for ours, given in zip(last.got[1:], inputs[1:], strict=True))


def test_metrics_carry_the_name_of_their_class(inputs: tuple[torch.Tensor, ...]) -> None:
    pipeline = LossModifierPipeline([Times(3.0), Plus(), PerSequence()])
    pipeline.modify(*inputs)

    largest = inputs[0].max() * 3 + 1
    assert pipeline.metrics() == {"Times.factor": 3.0, "PerSequence.valid": 4, "PerSequence.largest": largest}


def test_a_pipeline_may_hold_a_pipeline(inputs: tuple[torch.Tensor, ...]) -> None:
    inner = LossModifierPipeline([Times(3.0), Plus()])
    outer = LossModifierPipeline([inner, Times(2.0)])

    assert torch.equal(outer.modify(*inputs), (inputs[0] * 3 + 1) * 2)
    assert list(outer.metrics()) == ["LossModifierPipeline.Times.factor", "Times.factor"]


@pytest.mark.parametrize("train", [True, False])
def test_an_objective_takes_the_mean_once_after_the_last_modifier(tiny_model: GPT, train: bool) -> None:
    tokens = torch.randint(17, (3, 8))
    targets = tokens.roll(-1, dims=1)
    targets[:, -1] = -1
    own = tiny_model(tokens, targets)[1]
    pipeline = LossModifierPipeline([Times(3.0), Plus(), PerSequence()])

    loss = LanguageModeling(pipeline.modify)(tiny_model, (tokens, targets), train).loss

    torch.testing.assert_close(loss, 7 * (own * 3 + 1) if train else own)  # 7 valid positions a sequence
