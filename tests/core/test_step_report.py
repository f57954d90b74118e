"""The report of an update: nanoGPT's loss, time and mfu."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import core.step_report
from core.step_report import StepReport
from core.training_step import StepResult

MEAN = 0.75  # of the losses of the micro-batches


class Counting:
    """Records the calls of `estimate_mfu` and returns their number as the mfu."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []

    def estimate_mfu(self, sequences: float, seconds: float) -> float:
        self.calls.append((sequences, seconds))
        return float(len(self.calls))


def step(updates: int = 0) -> Any:
    """Return the attributes of a training step that a report reads."""
    return SimpleNamespace(updates=updates, optimizer=SimpleNamespace(param_groups=[{"lr": 0.25}, {"lr": 0.5}]))


def result(loss: float = 1.0, grad_norm: float | None = None, micro_steps: int = 1, **metrics: float) -> StepResult:
    norm = None if grad_norm is None else torch.tensor(grad_norm)
    measured = {n: torch.tensor(v) for n, v in metrics.items()}
    return StepResult(torch.tensor(loss), norm, measured, micro_steps, torch.tensor(MEAN))


@pytest.mark.parametrize("micro_steps", [1, 3, 5])
def test_the_loss_is_scaled_back_as_nanogpt_prints_it(micro_steps: int) -> None:
    """The last micro-batch's loss: divided by the number of micro-batches in float32, multiplied by it in Python."""
    loss = (torch.tensor(0.7) / micro_steps).item()

    metrics = StepReport(Counting(), step(), 8).metrics(3, result(loss, micro_steps=micro_steps), 0.5)

    assert metrics.pop("elapsed_s") > 0
    expected = {"iter": 3, "loss": loss * micro_steps, "lr": 0.25, "time_ms": 500, "mfu": -100, "mean_loss": MEAN}
    assert metrics == expected


def test_norm_and_the_objectives_metrics_are_reported_if_known() -> None:
    metrics = StepReport(Counting(), step(), 8).metrics(0, result(grad_norm=2.5, ratio=0.125), 0.5)

    names = ["iter", "loss", "lr", "time_ms", "grad_norm", "ratio", "mfu", "elapsed_s", "mean_loss"]
    assert list(metrics) == names
    assert (metrics["grad_norm"], metrics["ratio"]) == (2.5, 0.125)


@pytest.mark.parametrize(
    ("log_interval", "expected"),
    [
        (1, [-100, -100, -100, -100, -100, 100, 90 + 20, 0.9 * 110 + 30]),
        (2, [-100, -100, -100, 100]),
        (5, [-100, 100]),
    ],
)
def test_mfu_is_estimated_after_five_updates_of_this_process(log_interval: int, expected: list[float]) -> None:
    """After them, the mfu is a running mean over the logged updates: 0.9 of the old mean and 0.1 of the new value."""
    model, training = Counting(), step()
    report = StepReport(model, training, 8)
    percents = []
    for number in range(8):
        training.updates += 1
        if number % log_interval == 0:
            percents.append(report.metrics(100 + number, result(), 0.1 * number)["mfu"])

    assert percents == pytest.approx(expected)
    assert report.mfu_percent == percents[-1]
    logged = [number for number in range(8) if number % log_interval == 0 and number >= 5]
    assert model.calls == [(8, 0.1 * number) for number in logged]


def test_a_lap_starts_at_the_end_of_the_previous_one(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([100.0, 101.0, 103.0, 107.0])
    monkeypatch.setattr(core.step_report, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    report = StepReport(Counting(), step(), 8)
    report.start()

    assert [report.lap(), report.lap(), report.lap()] == [1, 2, 4]


def test_tokens_and_their_rate_are_counted_from_report_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate counts the updates of this process since the last report; the tokens those since iteration 0."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(core.step_report, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    training = step(updates=7)
    report = StepReport(Counting(), training, 8, 10)
    report.start()
    logged = []
    for iter_num, seconds in ((50, 2.0), (51, 1.0), (52, 4.0)):
        clock.now += seconds
        training.updates += 1
        lap = report.lap()
        if iter_num != 51:
            logged.append(report.metrics(iter_num, result(), lap))

    assert [metrics["tokens"] for metrics in logged] == [510, 530]
    assert [metrics["tokens_per_s"] for metrics in logged] == [10 / 2, 20 / 5]
    assert [metrics["elapsed_s"] for metrics in logged] == [2, 7]
    assert report.progress(53) == {"mfu": report.mfu_percent, "elapsed_s": 7, "tokens": 530}


def test_a_rate_without_time_is_not_reported() -> None:
    report = StepReport(Counting(), step(updates=1), 8, 10)

    assert "tokens_per_s" not in report.metrics(0, result(), 0.0)
