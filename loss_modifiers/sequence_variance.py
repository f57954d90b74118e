"""SequenceScorerVarianceModifier: a penalty on scores that vary less than their targets."""

import torch

from loss_modifiers.base import LossModifier, at_least_float32, change_metrics


class SequenceScorerVarianceModifier(LossModifier):
    """Multiplies the loss by 1 + (scale - 1) * (1 - exp(-alpha * (r - 1))) if r = var(targets) / var(scores) > 1.

    Gradients flow through the variance of the scores, so the model learns to spread them.

    scale: maximum factor
    alpha: how fast the factor grows with r
    """

    training_types = ("sequence_scoring",)

    def __init__(self, scale: float = 2.0, alpha: float = 1.5, eps: float = 1e-8) -> None:
        self.scale = scale
        self.alpha = alpha
        self.eps = eps

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the multiplied losses (B,)."""
        of_scores = at_least_float32(logits).view_as(targets).var(correction=0)
        of_targets = at_least_float32(targets).var(correction=0)
        ratio = of_targets / of_scores.clamp(min=self.eps)
        growth = 1.0 - (-self.alpha * (ratio - 1.0).clamp(min=0.0)).exp()
        factor = (1.0 + (self.scale - 1.0) * growth).clamp(1.0, self.scale)
        multiplied = loss * factor
        self._metrics = {
            "variance_pred": of_scores.detach(),
            "variance_target": of_targets.detach(),
            "ratio_y_over_x": ratio.detach(),
            "factor_applied": factor.detach(),
            "alpha": torch.tensor(self.alpha),
            "scale_cap": torch.tensor(self.scale),
            **change_metrics(loss, multiplied, mask),
        }
        return multiplied
