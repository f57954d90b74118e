"""MetricsCollectorModifier: metrics of sequence scores that cost almost nothing."""

from typing import Any

import torch

from loss_modifiers.base import LossModifier
from loss_modifiers.moving_average import MovingAverage


class MetricsCollectorModifier(LossModifier):
    """Measures the relative error of scores in each batch, and its moving average; does not change the loss.

    `aare_instant` is mean(|score - target| / max(|target|, eps)). Tasks with a target per position have no metrics.
    """

    def __init__(self, ema_alpha: float = 0.1, eps: float = 1e-6) -> None:
        self.eps = eps
        self._ema = MovingAverage(keep=1.0 - ema_alpha)

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss unchanged."""
        self._metrics = {}
        if targets.dim() == 1:
            error = (logits.detach().view_as(targets) - targets).abs()
            relative = (error / targets.abs().clamp(min=self.eps)).mean()
            self._metrics = {"aare_instant": relative, "aare_ema": self._ema.update(relative)}
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"aare_ema": self._ema.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ema.value = state["aare_ema"]
