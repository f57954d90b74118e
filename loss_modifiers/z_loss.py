"""ZLossModifier: a small penalty on large logits."""

import torch

from core.losses import mean_loss
from loss_modifiers.base import TOKEN_TYPES, LossModifier, at_least_float32


class ZLossModifier(LossModifier):
    """Adds weight * log(Z)^2 per position; Z is the sum of the exponentials of the logits (PaLM, arXiv:2204.02311)."""

    training_types = TOKEN_TYPES

    def __init__(self, weight: float = 1e-4) -> None:
        self.weight = weight

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss (B, T) with the penalty added."""
        penalty = self.weight * at_least_float32(logits).logsumexp(dim=-1).square()
        self._metrics = {"z_loss": mean_loss(penalty.detach(), mask)}
        return loss + penalty
