"""A price on scores that do not go along with their targets."""

import math

import torch

from core.errors import ConfigError
from loss_modifiers.base import LossModifier, change, widened


class SequenceScorerCorrelationModifier(LossModifier):
    """Multiplies the loss by a quadratic in Pearson's correlation: 1 at 1, sqrt(alpha) at 0, alpha at -1.

    No gradient flows through the correlation.
    """

    training_types = ("sequence_scoring",)

    def __init__(self, alpha: float = 4.0, eps: float = 1e-8) -> None:
        if not alpha >= 1.0:
            raise ConfigError(
                f"sequence_correlation_alpha={alpha}: wanted at least 1, "
                "the factor on the loss when scores and targets are opposed"
            )
        self.alpha = alpha
        self.eps = eps
        self.curve = (math.sqrt(alpha) - 1.0) ** 2 / 2.0, (1.0 - alpha) / 2.0, math.sqrt(alpha)

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the multiplied losses (B,)."""
        correlation = self._correlation(widened(logits).detach().view_as(targets), widened(targets))
        a, b, c = self.curve
        multiplier = a * correlation.square() + b * correlation + c
        multiplied = loss * multiplier
        self._metrics = {
            **{name: torch.tensor(value) for name, value in zip("ABC", self.curve, strict=True)},
            "alpha": torch.tensor(self.alpha),
            "correlation": correlation,
            "multiplier": multiplier,
            **change(loss, multiplied, mask),
        }
        return multiplied

    def _correlation(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = x - x.mean(), y - y.mean()
        norms = (x.square().sum() + self.eps).sqrt() * (y.square().sum() + self.eps).sqrt()
        return ((x * y).sum() / (norms + self.eps)).clamp(-1.0, 1.0)
