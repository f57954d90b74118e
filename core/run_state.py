"""The counters and losses of a run as a whole."""

import math
from typing import Any

import torch

from core.losses import SPLITS


class RunState:
    """Where a run is, and how well it does.

    iter_num:        the iteration at hand
    lowest_val_loss: the lowest validation loss seen
    saved_val_loss:  of the last evaluation that saved, better or not; nanoGPT's best_val_loss
    evaluated_at:    iteration of the last evaluation; a resume does not repeat it
    losses:          mean loss of each split, of the last evaluation
    metrics:         what that evaluation measured in addition, by the names it is logged under
    """

    def __init__(self) -> None:
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
        return {**{f"{split}/loss": loss for split, loss in self.losses.items()}, **metrics}

    def measured(self) -> dict[str, float]:
        """Return what the last evaluation measured: `train_loss`, `val_loss`, and the metrics."""
        return {**{f"{split}_loss": loss.item() for split, loss in self.losses.items()}, **self.metrics}

    def manifest_notes(self, is_healthy: bool, max_iters: float) -> dict[str, Any]:
        """Return what a manifest says about the run; a loss is None if it was measured on other weights."""
        measured = self.losses if self.evaluated_at == self.iter_num else {}
        losses = {split: loss.item() for split, loss in measured.items()}
        return {
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
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore counters and losses, of a checkpoint of ours or of nanoGPT's."""
        self.iter_num = state["iter_num"]
        self.saved_val_loss = state["best_val_loss"]
        self.lowest_val_loss = float(state["lowest_val_loss"] if "lowest_val_loss" in state else state["best_val_loss"])
        self.evaluated_at, self.losses, self.metrics = state.get("evaluated_at"), {}, {}
