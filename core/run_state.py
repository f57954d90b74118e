"""The counters and losses of a run as a whole."""

import math
from typing import Any

import torch

from core.errors import ConfigError
from core.losses import SPLITS

VAL_LOSS = "val_loss"


class RunState:
    """Where a run is, and how well it does.

    iter_num:        the iteration at hand
    lowest_val_loss: the lowest validation loss seen
    best_metric:     name of what decides which checkpoint is best, of those that `measured` returns
    best_mode:       min if lower values of it are better, max if higher ones are
    saved_val_loss:  of the last evaluation that saved, better or not; nanoGPT's best_val_loss
    evaluated_at:    iteration of the last evaluation; a resume does not repeat it
    losses:          mean loss of each split, of the last evaluation
    metrics:         what that evaluation measured in addition, by the names it is logged under
    """

    def __init__(self, best_metric: str = VAL_LOSS, best_mode: str = "min") -> None:
        self.best_metric, self.best_mode = best_metric, best_mode
        self.saved_metric: float | None = None  # of the last evaluation that saved, if it is not the validation loss
        self.iter_num = 0
        self.lowest_val_loss = math.inf
        self.saved_val_loss: torch.Tensor | float = 1e9
        self.evaluated_at: int | None = None
        self.losses: dict[str, torch.Tensor] = {}
        self.metrics: dict[str, float] = {}

    def record_evaluation(self, measured: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Keep the losses of an evaluation at `iter_num`. Return what was measured under the names it is logged by."""
        self.evaluated_at = self.iter_num
        self.losses = {split: measured[split] for split in SPLITS}
        self.lowest_val_loss = min(self.lowest_val_loss, self.losses["val"].item())
        metrics = {name: value for name, value in measured.items() if name not in SPLITS}
        self.metrics = {name: float(value) for name, value in metrics.items()}
        if self.best_metric not in (known := self.measured()):
            raise ConfigError(
                f"best_metric={self.best_metric!r}: this run's evaluations measure {', '.join(known)}: choose one of "
                "these"
            )
        return {**{f"{split}/loss": loss for split, loss in self.losses.items()}, **metrics}

    def improves(self) -> bool:
        """Return whether the last evaluation is better than the last one that saved."""
        if self._is_by_loss:
            return bool(self.losses["val"] < self.saved_val_loss)
        value, sign = self.measured()[self.best_metric], 1 if self.best_mode == "min" else -1
        return self.saved_metric is None or sign * value < sign * self.saved_metric

    def mark_saved(self) -> dict[str, Any]:
        """Record that the last evaluation saves. Return what `unmark_saved` takes if the save fails."""
        before = {"saved_val_loss": self.saved_val_loss, "saved_metric": self.saved_metric}
        self.saved_val_loss = self.losses["val"]
        self.saved_metric = None if self._is_by_loss else self.measured()[self.best_metric]
        return before

    def unmark_saved(self, before: dict[str, Any]) -> None:
        """Restore what `mark_saved` returned, so that a later evaluation saves even if it is not better."""
        self.saved_val_loss, self.saved_metric = before["saved_val_loss"], before["saved_metric"]

    @property
    def _is_by_loss(self) -> bool:
        return (self.best_metric, self.best_mode) == (VAL_LOSS, "min")

    def measured(self) -> dict[str, float]:
        """Return what the last evaluation measured: `train_loss`, `val_loss`, and the metrics."""
        return {**{f"{split}_loss": loss.item() for split, loss in self.losses.items()}, **self.metrics}

    def manifest_notes(self, is_healthy: bool, max_iters: float) -> dict[str, Any]:
        """Return what a manifest says about the run; a loss is None if it was measured on other weights."""
        measured = self.losses if self.evaluated_at == self.iter_num else {}
        losses = {split: loss.item() for split, loss in measured.items()}
        best = {}
        if measured and not self._is_by_loss:
            value = self.measured()[self.best_metric]
            best = {"best_metric": {"name": self.best_metric, "mode": self.best_mode, "value": value}}
        return {
            **best,
            "iter_num": self.iter_num,
            "train_loss": losses.get("train"),
            "val_loss": losses.get("val"),
            "lowest_val_loss": self.lowest_val_loss if math.isfinite(self.lowest_val_loss) else None,
            "healthy": is_healthy,
            "finished": self.iter_num > max_iters,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the counters and losses under the keys of a checkpoint."""
        return {
            "iter_num": self.iter_num,
            "best_val_loss": self.saved_val_loss,
            "lowest_val_loss": self.lowest_val_loss,
            "evaluated_at": self.evaluated_at,
            **({} if self._is_by_loss else {"saved_metric": self.saved_metric}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore counters and losses, of a checkpoint of ours or of nanoGPT's."""
        self.iter_num = state["iter_num"]
        self.saved_val_loss = state["best_val_loss"]
        self.lowest_val_loss = float(state["lowest_val_loss"] if "lowest_val_loss" in state else state["best_val_loss"])
        self.saved_metric = state.get("saved_metric")
        self.evaluated_at, self.losses, self.metrics = state.get("evaluated_at"), {}, {}
