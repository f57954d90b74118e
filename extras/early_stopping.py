"""The end of a run whose evaluations no longer improve."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from core.callback import Callback
from core.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from core.trainer import Trainer

log = logging.getLogger("coregpt")


class EarlyStopping(Callback):
    """Stops the run after `patience` consecutive evaluations without an improvement of at least `min_delta`.

    monitor: what is compared: `val_loss`, `train_loss`, or a metric of the evaluation by the name it is logged under,
             such as `val/accuracy`
    mode:    min if lower values are better, max if higher ones are

    The iteration at hand is completed and saved, and the run ends as at max_iters. A resume of a run that was stopped
    stops at once; to train on, raise `patience`. Raises ConfigError for other arguments, and at the first evaluation
    that does not measure `monitor`.
    """

    def __init__(
        self, patience: int = 3, min_delta: float = 1e-4, monitor: str = "val_loss", mode: str = "min"
    ) -> None:
        if not isinstance(patience, int) or patience < 1:
            raise ConfigError(f"EarlyStopping(patience={patience!r}): wanted a whole number of 1 or more")
        if not min_delta >= 0:
            raise ConfigError(f"EarlyStopping(min_delta={min_delta!r}): wanted a number of 0 or more")
        if mode not in ("min", "max"):
            raise ConfigError(f"EarlyStopping(mode={mode!r}): wanted min or max, which says what a better value is")
        self.monitor, self.mode = monitor, mode
        self.patience, self.min_delta = patience, min_delta
        self.best: float | None = None
        self.stale_count = 0  # evaluations since the best one
        self.judged_at = -1  # a resume with reseeded random numbers repeats an evaluation: count it once

    def on_train_begin(self, trainer: Trainer) -> None:
        """Stop a run at once that was stopped before."""
        if self.stale_count >= self.patience and trainer.iter_num > self.judged_at:
            trainer.stop(self._reason())
            trainer.stop_request.agree(is_preempted=False, is_requested=True)  # every rank has restored this count

    def on_step_begin(self, trainer: Trainer) -> None:
        """Stop after the iteration whose evaluation decided it, also if the run was interrupted between the two."""
        if self.stale_count >= self.patience and not trainer.stop_request.is_requested:
            trainer.stop(self._reason())

    def on_eval_end(self, trainer: Trainer, losses: dict[str, torch.Tensor]) -> None:
        """Compare the evaluation with the best one."""
        if trainer.iter_num == self.judged_at:
            return
        self.judged_at, value = trainer.iter_num, self._monitored(trainer.counters.measured())
        sign = 1 if self.mode == "min" else -1
        best = math.inf if self.best is None else sign * self.best
        if sign * value < best - self.min_delta:  # not a number never is
            self.best, self.stale_count = value, 0
            return
        self.stale_count += 1
        log.info(f"early stopping: no better {self.monitor} in {self.stale_count} of {self.patience} evaluations")

    def _monitored(self, measured: dict[str, float]) -> float:
        if self.monitor not in measured:
            raise ConfigError(
                f"EarlyStopping(monitor={self.monitor!r}): this run's evaluations measure {', '.join(measured)}; "
                "monitor one of these"
            )
        return measured[self.monitor]

    def _reason(self) -> str:
        best = "none" if self.best is None else f"{self.best:.4f}"
        return f"no better {self.monitor} in {self.stale_count} evaluations (best: {best})"

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, and how many evaluations ago it was measured."""
        return {name: getattr(self, name) for name in ("best", "stale_count", "judged_at")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.best, self.stale_count, self.judged_at = state["best"], state["stale_count"], state["judged_at"]
