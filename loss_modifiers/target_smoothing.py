"""TargetSmoothingModifier: label smoothing over the complete vocabulary, as in the core line."""

from collections.abc import Sequence

import torch

from loss_modifiers.base import TOKEN_TYPES, LossModifier
from loss_modifiers.smoothing import id_mask, smoothing_metrics, target_log_probs


class TargetSmoothingModifier(LossModifier):
    """Uses soft targets: 1 - `factor` for the target, factor / (V - 1) for each other token.

    A target that is a special token is not smoothed, but special tokens are among the other tokens of ordinary targets.
    The change of the cross-entropy is added to the loss, so that the changes of earlier modifiers are kept.

    exclude_padding: a target equal to `padding_token` has a loss of 0, but counts in the mean if it is in the mask
    """

    training_types = TOKEN_TYPES

    def __init__(
        self,
        factor: float = 0.1,
        special_tokens: Sequence[int] = (),
        exclude_padding: bool = True,
        padding_token: int = -100,
    ) -> None:
        self.factor = factor
        self.special_tokens = tuple(special_tokens)
        self.exclude_padding = exclude_padding
        self.padding_token = padding_token

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the smoothed loss (B, T), 0 where the target is padding or not a token id."""
        vocab_size = logits.size(-1)
        log_probs, of_target, indices = target_log_probs(logits, targets)
        of_others = (log_probs.sum(dim=-1) - of_target) / (vocab_size - 1)  # mean of the other tokens
        special = id_mask(self.special_tokens, vocab_size, logits.device)[indices]
        smoothed = torch.where(special, loss, loss + self.factor * (of_target - of_others))
        counts = (targets >= 0) & (targets < vocab_size)
        if self.exclude_padding:
            counts = counts & (targets != self.padding_token)
        smoothed = smoothed.masked_fill(~counts, 0.0)
        self._metrics = smoothing_metrics(loss, smoothed, mask, mask & counts, self.factor)
        return smoothed
