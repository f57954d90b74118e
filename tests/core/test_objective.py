"""Language modelling: the model's own loss, or one that a modifier has changed."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.objective import LanguageModeling, Objective
from model import GPT
from tests.modifying import Modifying


def batch_with_ignored_targets() -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and targets of 3 sequences of 8 tokens; 5 of the targets are -1."""
    tokens = torch.randint(17, (3, 9))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    targets[0, 2] = targets[1, 5] = targets[1, 6] = targets[2, 0] = targets[2, 7] = -1
    return inputs, targets


def by_position(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of every position whose target is not -1, in order."""
    logits = model(inputs, targets)[0]
    wanted = [(row, column) for row in range(len(targets)) for column in range(targets.size(1))]
    losses = [
        -F.log_softmax(logits[row, column], dim=-1)[targets[row, column]]
        for row, column in wanted
        if targets[row, column] >= 0
    ]
    return torch.stack(losses)


def unchanged(loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return loss


@pytest.mark.parametrize("train", [True, False])
def test_without_a_modifier_the_loss_is_the_models_own_tensor(train: bool) -> None:
    own = torch.tensor(1.5)

    def model(inputs: torch.Tensor, targets: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, own  # a model may return no logits

    output = LanguageModeling()(model, batch_with_ignored_targets(), train)  # type: ignore[arg-type]

    assert output.loss is own
    assert output.metrics == {}


def test_loss_is_the_mean_over_targets_that_are_not_ignored(tiny_model: GPT) -> None:
    inputs, targets = batch_with_ignored_targets()

    loss = LanguageModeling()(tiny_model, (inputs, targets), train=True).loss

    assert loss.dim() == 0
    torch.testing.assert_close(loss, by_position(tiny_model, inputs, targets).mean())


def test_a_modifier_that_returns_its_loss_changes_no_loss_or_gradient(tiny_model: GPT) -> None:
    batch = batch_with_ignored_targets()
    parameters = list(tiny_model.parameters())

    plain = LanguageModeling()(tiny_model, batch, train=True).loss
    modified = LanguageModeling(Modifying(unchanged))(tiny_model, batch, train=True).loss

    torch.testing.assert_close(modified, plain)
    pairs = zip(torch.autograd.grad(modified, parameters), torch.autograd.grad(plain, parameters), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


def test_a_modifier_gets_loss_logits_targets_and_mask_of_every_position(tiny_model: GPT) -> None:
    inputs, targets = batch_with_ignored_targets()
    calls = []

    def modify(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(arguments)
        return arguments[0]

    LanguageModeling(Modifying(modify))(tiny_model, (inputs, targets), train=True)

    ((loss, logits, given_targets, mask),) = calls
    assert loss.shape == mask.shape == (3, 8) and logits.shape == (3, 8, 17)
    assert given_targets is targets
    assert torch.equal(mask, targets >= 0)
    torch.testing.assert_close(loss[mask], by_position(tiny_model, inputs, targets))
    assert loss[~mask].eq(0).all()


def test_a_modified_loss_does_not_count_ignored_targets(tiny_model: GPT) -> None:
    inputs, targets = batch_with_ignored_targets()

    modifier = Modifying(lambda loss, *_: loss + 1000 * (targets == -1) + 1)
    loss = LanguageModeling(modifier)(tiny_model, (inputs, targets), True).loss

    torch.testing.assert_close(loss, by_position(tiny_model, inputs, targets).mean() + 1)


def test_a_loss_per_sequence_is_averaged_over_sequences(tiny_model: GPT) -> None:
    weights = torch.tensor([1.0, 10.0, 100.0])

    loss = LanguageModeling(Modifying(lambda *_: weights))(tiny_model, batch_with_ignored_targets(), train=True).loss

    assert loss == 37.0


def test_evaluation_does_not_call_a_modifier(tiny_model: GPT) -> None:
    def modify(*_: torch.Tensor) -> torch.Tensor:
        raise AssertionError("called in an evaluation")

    batch = batch_with_ignored_targets()

    assert torch.equal(LanguageModeling(Modifying(modify))(tiny_model, batch, train=False).loss, tiny_model(*batch)[1])


def test_an_objective_must_be_callable() -> None:
    with pytest.raises(TypeError, match="__call__"):
        Objective()  # type: ignore[abstract]


def test_an_objective_has_the_metrics_and_state_of_its_modifiers(tiny_model: GPT) -> None:
    objective = LanguageModeling(Modifying(unchanged))

    metrics = objective(tiny_model, batch_with_ignored_targets(), train=True).metrics
    restored = LanguageModeling(Modifying(unchanged))
    restored.load_state_dict(objective.state_dict())

    assert metrics == {"loss_modifiers/Modifying.calls": 1}
    assert restored.state_dict() == {"calls": 1}
    assert LanguageModeling().state_dict() == {}
