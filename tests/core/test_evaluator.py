"""Evaluator: plain means over new batches, and a model that is not changed."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from core.evaluator import Evaluator
from core.objective import LanguageModeling, Meter, Objective, Output
from core.preemption import Interrupted
from core.runtime import Runtime
from model import GPT
from tests.modifying import Modifying


def get_batch(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw inputs and targets from torch's global generator, with different tokens for each split."""
    tokens = torch.randint(*{"train": (0, 9), "val": (9, 17)}[split], (2, 9))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def evaluator(model: nn.Module, objective: Objective | None = None, **changes: Any) -> Evaluator:
    settings = dict(get_batch=get_batch, eval_iters=3, autocast=nullcontext()) | changes
    return Evaluator(model, objective or LanguageModeling(), **settings)  # type: ignore[arg-type]


class Scripted(Objective):
    """Returns the given losses in order, and records the modes in every call."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = iter(losses)
        self.calls: list[tuple[bool, bool, bool, bool]] = []

    def __call__(self, model: nn.Module, batch: Any, train: bool) -> Output:
        modes = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        self.calls.append((train, model.training, *modes))
        return Output(torch.tensor(next(self.losses)), {})


@pytest.fixture
def dropout_model(tiny_model: GPT) -> GPT:
    return GPT(replace(tiny_model.config, dropout=0.5))


def test_loss_is_the_mean_over_new_batches_without_dropout(dropout_model: GPT) -> None:
    """Only the batches draw random numbers: all later draws are the same as in nanoGPT."""
    generator = torch.get_rng_state()
    losses = evaluator(dropout_model).evaluate_splits()
    after = torch.get_rng_state()

    torch.set_rng_state(generator)
    dropout_model.eval()
    for split in ("train", "val"):
        expected = torch.tensor([dropout_model(*get_batch(split))[1].item() for _ in range(3)]).mean()
        assert torch.equal(losses[split], expected)
    assert torch.equal(torch.get_rng_state(), after)
    assert list(losses) == ["train", "val"]


def test_mean_is_taken_in_float32(tiny_model: GPT) -> None:
    """In float32 2^24 + 1 is 2^24: Python's floats would give another mean, and print other digits."""
    mean = evaluator(tiny_model, Scripted([2.0**24, 1.0, 1.0])).evaluate("val")

    assert mean.dtype == torch.float32 and mean.dim() == 0 and mean.device.type == "cpu"
    assert torch.equal(mean, torch.tensor([2.0**24, 1.0, 1.0]).mean())
    assert mean.item() != (2.0**24 + 2) / 3


def test_each_split_gets_its_own_batches_training_data_first(tiny_model: GPT) -> None:
    splits = []

    def recording(split: str) -> None:
        splits.append(split)

    losses = evaluator(tiny_model, Scripted([1.0, 2.0, 3.0, 4.0]), get_batch=recording, eval_iters=2).evaluate_splits()

    assert splits == ["train", "train", "val", "val"]
    assert {split: loss.item() for split, loss in losses.items()} == {"train": 1.5, "val": 3.5}


def test_model_is_in_evaluation_mode_and_builds_no_graph(dropout_model: GPT) -> None:
    objective = Scripted([1.0, 2.0, 3.0])

    evaluator(dropout_model, objective).evaluate("val")

    assert objective.calls == [(False, False, False, False)] * 3
    assert all(module.training for module in dropout_model.modules())
    assert all(parameter.grad is None for parameter in dropout_model.parameters())
    assert torch.is_grad_enabled()


def test_every_batch_is_computed_under_autocast(tiny_model: GPT) -> None:
    objective = Scripted([1.0, 2.0, 3.0])

    evaluator(tiny_model, objective, autocast=torch.amp.autocast("cpu", torch.bfloat16)).evaluate("val")

    assert [autocast for *_, autocast in objective.calls] == [True] * 3
    assert not torch.is_autocast_enabled("cpu")


def test_loss_modifiers_are_not_called(tiny_model: GPT) -> None:
    def modify(*_: torch.Tensor) -> torch.Tensor:
        raise AssertionError("called in an evaluation")

    generator = torch.get_rng_state()
    modified = evaluator(tiny_model, LanguageModeling(Modifying(modify))).evaluate("val")
    torch.set_rng_state(generator)

    assert torch.equal(modified, evaluator(tiny_model).evaluate("val"))


def test_an_evaluation_that_is_abandoned_leaves_the_model_in_training_mode(tiny_model: GPT) -> None:
    class Abandoned(BaseException):
        pass

    calls = []

    def interrupted(split: str) -> Any:
        calls.append(split)
        if len(calls) == 3:
            raise Abandoned
        return get_batch(split)

    with pytest.raises(Abandoned):
        evaluator(tiny_model, get_batch=interrupted).evaluate_splits()

    assert tiny_model.training


def test_an_isolated_rng_repeats_the_batches_and_restores_the_state(tiny_model: GPT) -> None:
    runtime = Runtime(device="cpu", seed=5)
    isolated = evaluator(tiny_model, rng=runtime.isolated_rng)
    torch.manual_seed(0)
    before = torch.get_rng_state()

    first, _, again = isolated.evaluate_splits(), torch.rand(7), isolated.evaluate_splits()

    assert first == again  # the same batches each time
    torch.set_rng_state(before)
    torch.rand(7)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    isolated.evaluate_splits()
    torch.rand(7)
    assert torch.equal(torch.get_rng_state(), after)  # as without the evaluation
    assert evaluator(tiny_model, rng=Runtime(device="cpu", seed=6).isolated_rng).evaluate_splits() != first


class Largest(Meter):
    """Returns the largest of the details that the objective reports."""

    def __init__(self, split: str) -> None:
        self.name, self.seen = f"{split}/largest", []

    def add(self, batch: Any, details: Any) -> None:
        self.seen.append((batch, details))

    def result(self) -> dict[str, float]:
        return {self.name: max(details for _, details in self.seen)}


class Measured(Scripted):
    """Reports each loss to a meter as well."""

    def __call__(self, model: nn.Module, batch: Any, train: bool) -> Output:
        output = super().__call__(model, batch, train)
        return output._replace(details=output.loss.item())

    def meter(self, split: str) -> Largest:
        return Largest(split)


def test_metrics_of_an_objective_follow_the_loss_of_each_split(tiny_model: GPT) -> None:
    """Each split has its own meter, which gets every batch."""
    metrics = evaluator(tiny_model, Measured([1.0, 5.0, 3.0, 4.0]), eval_iters=2).evaluate_splits()

    assert list(metrics) == ["train", "train/largest", "val", "val/largest"]
    assert {name: value.item() for name, value in metrics.items()} == {
        "train": 3.0, "train/largest": 5.0, "val": 3.5, "val/largest": 4.0,
    }  # fmt: skip


def test_validation_is_the_default_split(tiny_model: GPT) -> None:
    assert evaluator(tiny_model, Scripted([2.0, 4.0, 6.0])).evaluate() == 4.0


def test_a_measure_function_adds_metrics_of_each_split(tiny_model: GPT) -> None:
    """For example of generated text. It runs in evaluation mode and without gradients, after the loss."""
    seen = []

    def lengths(model: nn.Module, split: str) -> dict[str, float]:
        seen.append((split, model.training, torch.is_grad_enabled()))
        return {f"{split}/length": 7.0}

    plain = evaluator(tiny_model, Scripted([1.0, 3.0, 5.0, 2.0, 4.0, 6.0])).evaluate_splits()
    metrics = evaluator(tiny_model, Scripted([1.0, 3.0, 5.0, 2.0, 4.0, 6.0]), measure=lengths).evaluate_splits()

    assert seen == [("train", False, False), ("val", False, False)]
    assert {name: value.item() for name, value in metrics.items()} == {
        "train": 3.0, "train/length": 7.0, "val": 4.0, "val/length": 7.0
    }  # fmt: skip
    assert plain == {"train": 3.0, "val": 4.0}
    assert tiny_model.training


def test_evaluate_splits_returns_the_result_of_on_ranks(tiny_model: GPT) -> None:
    """`on_ranks` runs the evaluation on rank 0 or on all ranks."""
    calls = []

    def on_ranks(evaluation: Any) -> Any:
        calls.append(evaluation())
        return {"train": torch.tensor(1.0), "val": torch.tensor(2.0)}

    losses = evaluator(tiny_model, Scripted([9.0] * 6), on_ranks=on_ranks).evaluate_splits()

    assert losses == {"train": 1.0, "val": 2.0} and calls == [{"train": 9.0, "val": 9.0}]


def test_an_evaluation_interrupted_by_a_signal_raises_on_every_rank(tiny_model: GPT) -> None:
    with pytest.raises(Interrupted):
        evaluator(tiny_model, on_ranks=lambda evaluation: None).evaluate_splits()
