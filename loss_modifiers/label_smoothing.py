"""LabelSmoothingModifier: label smoothing without special tokens, as in the train_run line."""

from collections.abc import Sequence

import torch

from loss_modifiers.base import TOKEN_TYPES, LossModifier
from loss_modifiers.smoothing import id_mask, smoothing_metrics, target_log_probs


class LabelSmoothingModifier(LossModifier):
    """Uses soft targets: 1 - `factor` for the target, factor / (number of ordinary ids) for each other ordinary id.

    Special ids get 0 unless they are the target. The soft targets are then normalised to a sum of 1. The change of the
    cross-entropy is added to the loss, so that the changes of earlier modifiers are kept.
    """

    training_types = TOKEN_TYPES

    def __init__(self, factor: float = 0.1, special_tokens: Sequence[int] = ()) -> None:
        self.factor = factor
        self.special_tokens = tuple(special_tokens)

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the smoothed loss (B, T), 0 outside the mask."""
        log_probs, of_target, indices = target_log_probs(logits, targets)
        special = id_mask(self.special_tokens, logits.size(-1), logits.device)  # (V,)
        is_special = special[indices]  # (B, T)
        ordinary = logits.size(-1) - len({number for number in self.special_tokens if 0 <= number < logits.size(-1)})
        share = self.factor / ordinary
        of_others = log_probs.masked_fill(special, 0.0).sum(dim=-1) - of_target.masked_fill(is_special, 0.0)
        total = 1.0 - self.factor + share * (ordinary - 1 + is_special.to(of_target.dtype))
        soft = -((1.0 - self.factor) * of_target + share * of_others) / total
        smoothed = (loss + soft + of_target).masked_fill(~mask, 0.0)
        self._metrics = smoothing_metrics(loss, smoothed, mask, mask, self.factor)
        return smoothed
