"""SequenceScorerCorrelationModifier: a penalty on scores that do not correlate with their targets."""

import math

import torch

from core.errors import ConfigError
from loss_modifiers.base import LossModifier, at_least_float32, change_metrics


class SequenceScorerCorrelationModifier(LossModifier):
    """Multiplies the loss by a quadratic function of Pearson's correlation: 1 at 1, sqrt(alpha) at 0, alpha at -1.

    No gradient flows through the correlation.
    """

    training_types = ("sequence_scoring",)

    def __init__(self, alpha: float = 4.0, eps: float = 1e-8) -> None:
        if not alpha >= 1.0:
            raise ConfigError(
                f"sequence_correlation_alpha={alpha}: wanted at least 1, the factor of the loss at a correlation of -1"
            )
        self.alpha = alpha
        self.eps = eps
        self.curve = (math.sqrt(alpha) - 1.0) ** 2 / 2.0, (1.0 - alpha) / 2.0, math.sqrt(alpha)

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the multiplied losses (B,)."""
        correlation = self._correlation(at_least_float32(logits).detach().view_as(targets), at_least_float32(targets))
        a, b, c = self.curve
        multiplier = a * correlation.square() + b * correlation + c
        multiplied = loss * multiplier
        self._metrics = {
            **{name: torch.tensor(value) for name, value in zip("ABC", self.curve, strict=True)},
            "alpha": torch.tensor(self.alpha),
            "correlation": correlation,
            "multiplier": multiplier,
            **change_metrics(loss, multiplied, mask),
        }
        return multiplied

    def _correlation(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return Pearson's correlation () of x and y, each (B,)."""
        x, y = x - x.mean(), y - y.mean()
        norms = (x.square().sum() + self.eps).sqrt() * (y.square().sum() + self.eps).sqrt()
        return ((x * y).sum() / (norms + self.eps)).clamp(-1.0, 1.0)
