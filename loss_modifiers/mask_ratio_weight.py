"""More weight for the sequences with fewer valid positions."""

import torch

from core.losses import per_sequence
from loss_modifiers.base import TOKEN_TYPES, LossModifier, spread


class MaskRatioWeightModifier(LossModifier):
    """Weighs each sequence by (share of its positions that are valid) ** -power, clamped; not normalised.

    Shares of 1, 0.5 and 0.25 weigh 1, 1.41 and 2. With min_weight=0 and max_weight=inf it is the train_run line's
    `weight_loss_by_mask_ratio`.
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
            "weight_std": spread(weights),
        }
        return per_sequence(loss, mask) * weights
