"""MaskRatioWeightModifier: more weight for sequences with fewer valid positions."""

import torch

from core.losses import per_sequence
from loss_modifiers.base import TOKEN_TYPES, LossModifier, sample_std


class MaskRatioWeightModifier(LossModifier):
    """Weights each sequence by (fraction of valid positions) ** -power, clamped; the weights are not normalised.

    With power 0.5, fractions of 1, 0.5 and 0.25 have weights of 1, 1.41 and 2. min_weight=0 and max_weight=inf give the
    train_run line's `weight_loss_by_mask_ratio`.
    """

    training_types = TOKEN_TYPES

    def __init__(
        self, power: float = 0.5, min_weight: float = 0.1, max_weight: float = 10.0, eps: float = 1e-8
    ) -> None:
        self.power = power
        self.min_weight = min_weight
        self.max_weight = max_weight
        self.eps = eps

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the weighted losses (B,)."""
        ratio = mask.sum(dim=1).to(loss.dtype) / (mask.size(1) + self.eps)
        weights = (ratio + self.eps).pow(-self.power).clamp(self.min_weight, self.max_weight)
        self._metrics = {
            "mean_mask_ratio": ratio.mean(),
            "min_mask_ratio": ratio.min(),
            "max_mask_ratio": ratio.max(),
            "mean_weight": weights.mean(),
            "min_weight": weights.min(),
            "max_weight": weights.max(),
            "weight_std": sample_std(weights),
        }
        return per_sequence(loss, mask) * weights
