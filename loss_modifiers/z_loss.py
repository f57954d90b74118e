"""A small price on large logits."""

import torch

from core.losses import mean_loss
from loss_modifiers.base import TOKEN_TYPES, LossModifier, widened


class ZLossModifier(LossModifier):
    """Adds weight * log(Z)^2 per position, Z the sum of the exponentials of the logits (PaLM, arXiv:2204.02311)."""

    training_types = TOKEN_TYPES

    def __init__(self, weight: float = 1e-4) -> None:
        self.weight = weight

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss (B, T) with the price added."""
        price = self.weight * widened(logits).logsumexp(dim=-1).square()
        self._metrics = {"z_loss": mean_loss(price.detach(), mask)}
        return loss + price
