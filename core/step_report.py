"""The report of an update: nanoGPT's loss, time and mfu, what the objective measured, tokens and their rate."""

import time
from typing import Any

from core.training_step import StepResult, TrainingStep

WARMUP_STEPS = 5  # updates of this process before the mfu is measured; until then it reads -100%


class StepReport:
    """Measures the time of updates and turns the result of one into the metrics that are logged.

    raw_model:          `raw_model.estimate_mfu(sequences, seconds)` returns the mfu; without it the mfu reads -100%
    sequences_per_iter: sequences that this process sees in an iteration
    tokens_per_iter:    tokens that all processes see in an iteration; 0: not known, and not reported
    """

    def __init__(self, raw_model: Any, step: TrainingStep, sequences_per_iter: int, tokens_per_iter: int = 0) -> None:
        self.raw_model = raw_model
        self.step = step
        self.sequences_per_iter = sequences_per_iter
        self.tokens_per_iter = tokens_per_iter
        self.running_mfu = -1.0
        self._began = self._lap_began = 0.0
        self._last_report = 0.0, 0  # time and updates of this process

    @property
    def mfu_percent(self) -> float:
        """The running mfu in percent."""
        return self.running_mfu * 100

    @property
    def elapsed_s(self) -> float:
        """Seconds since this process began to train."""
        return time.perf_counter() - self._began

    def start(self) -> None:
        """Start the clock of the first update."""
        self._began = self._lap_began = time.perf_counter()
        self._last_report = self._began, self.step.updates

    def lap(self) -> float:
        """Return the seconds since the last lap; evaluations and saves count to the update that follows them."""
        began, self._lap_began = self._lap_began, time.perf_counter()
        return self._lap_began - began

    def progress(self, iter_num: int) -> dict[str, Any]:
        """Return the mfu, the seconds of training, and the tokens seen by all processes before iteration `iter_num`."""
        tokens = {"tokens": iter_num * self.tokens_per_iter} if self.tokens_per_iter else {}
        return {"mfu": self.mfu_percent, "elapsed_s": self.elapsed_s, **tokens}

    def metrics(self, iter_num: int, result: StepResult, seconds: float) -> dict[str, Any]:
        """Return the metrics of the update just made, under nanoGPT's names. Reading the loss waits for the device.

        Tokens per second are over the time since the previous report, with its evaluations and saves.
        """
        if self.step.updates > WARMUP_STEPS and hasattr(self.raw_model, "estimate_mfu"):  # a fork's may have none
            mfu = self.raw_model.estimate_mfu(self.sequences_per_iter, seconds)
            self.running_mfu = mfu if self.running_mfu == -1.0 else 0.9 * self.running_mfu + 0.1 * mfu
        loss = result.loss.item() * result.micro_steps
        lr = self.step.optimizer.param_groups[0]["lr"]  # a callback may have changed it before the update
        metrics = {"iter": iter_num, "loss": loss, "lr": lr, "time_ms": seconds * 1000}
        if result.grad_norm is not None:
            metrics["grad_norm"] = result.grad_norm.item()
        metrics |= {name: float(value) for name, value in result.metrics.items()}
        mean_loss = result.mean_loss.item()  # the device has finished: nothing waits
        return {**metrics, **self.progress(iter_num + 1), **self._rate(), "mean_loss": mean_loss}

    def _rate(self) -> dict[str, float]:
        """Return the tokens per second between the previous report and the last lap, if both are known."""
        (began, updates), now = self._last_report, (self._lap_began, self.step.updates)
        self._last_report = now
        if not self.tokens_per_iter or now[0] <= began:
            return {}
        return {"tokens_per_s": (now[1] - updates) * self.tokens_per_iter / (now[0] - began)}
