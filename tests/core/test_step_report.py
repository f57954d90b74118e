"""The report of an update: nanoGPT's loss, time and mfu."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import core.step_report
from core.step_report import StepReport
from core.training_step import StepResult


class Counting:
    """A model whose mfu is the number of times that it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def estimate_mfu(self, sequences: float, seconds: float) -> float:
        self.asked.append((sequences, seconds))
        return float(len(self.asked))


def step(updates: int = 0) -> Any:
    """Return as much of a training step as a report reads."""
    return SimpleNamespace(updates=updates, optimizer=SimpleNamespace(param_groups=[{"lr": 0.25}, {"lr": 0.5}]))


def result(loss: float = 1.0, grad_norm: float | None = None, micro_steps: int = 1, **metrics: float) -> StepResult:
    norm = None if grad_norm is None else torch.tensor(grad_norm)
    return StepResult(torch.tensor(loss), norm, {n: torch.tensor(v) for n, v in metrics.items()}, micro_steps)


@pytest.mark.parametrize("micro_steps", [1, 3, 5])
def test_the_loss_is_multiplied_back_as_nanogpt_prints_it(micro_steps: int) -> None:
    """The last micro-batch's, divided by their number in float32 and multiplied back by Python."""
    loss = (torch.tensor(0.7) / micro_steps).item()

    metrics = StepReport(Counting(), step(), 8).metrics(3, result(loss, micro_steps=micro_steps), 0.5)

    assert metrics == {"iter": 3, "loss": loss * micro_steps, "lr": 0.25, "time_ms": 500, "mfu": -100}


def test_norm_and_the_objectives_metrics_are_reported_if_known() -> None:
    metrics = StepReport(Counting(), step(), 8).metrics(0, result(grad_norm=2.5, ratio=0.125), 0.5)

    assert list(metrics) == ["iter", "loss", "lr", "time_ms", "grad_norm", "ratio", "mfu"]
    assert (metrics["grad_norm"], metrics["ratio"]) == (2.5, 0.125)


@pytest.mark.parametrize(
    ("log_interval", "expected"),
    [
        (1, [-100, -100, -100, -100, -100, 100, 90 + 20, 0.9 * 110 + 30]),
        (2, [-100, -100, -100, 100]),
        (5, [-100, 100]),
    ],
)
def test_mfu_is_trusted_after_five_updates_of_this_process(log_interval: int, expected: list[float]) -> None:
    """Then it is the running mean of the logged updates, nine parts old and one part new."""
    model, training = Counting(), step()
    report = StepReport(model, training, 8)
    found = []
    for number in range(8):
        training.updates += 1
        if number % log_interval == 0:
            found.append(report.metrics(100 + number, result(), 0.1 * number)["mfu"])

    assert found == pytest.approx(expected)
    assert report.mfu_percent == found[-1]
    logged = [number for number in range(8) if number % log_interval == 0 and number >= 5]
    assert model.asked == [(8, 0.1 * number) for number in logged]


def test_a_lap_lasts_from_the_end_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([100.0, 101.0, 103.0, 107.0])
    monkeypatch.setattr(core.step_report, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    report = StepReport(Counting(), step(), 8)
    report.start()

    assert [report.lap(), report.lap(), report.lap()] == [1, 2, 4]
