"""Figures about a batch that cost next to nothing to take."""

from typing import Any

import torch

from loss_modifiers.base import LossModifier
from loss_modifiers.moving_average import MovingAverage


class MetricsCollectorModifier(LossModifier):
    """Measures how far scores are off, relative to their targets, now and on average; never changes the loss.

    `aare_instant` is mean(|score - target| / max(|target|, eps)). Tasks with a target per position have no figures yet.
    """

    def __init__(self, ema_alpha: float = 0.1, eps: float = 1e-6) -> None:
        self.eps = eps
        self._ema = MovingAverage(keep=1.0 - ema_alpha)

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss it was given."""
        self._metrics = {}
        if targets.dim() == 1:
            off = (logits.detach().view_as(targets) - targets).abs()
            now = (off / targets.abs().clamp(min=self.eps)).mean()
            self._metrics = {"aare_instant": now, "aare_ema": self._ema.update(now)}
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the moving average."""
        return {"aare_ema": self._ema.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a moving average."""
        self._ema.value = state["aare_ema"]
