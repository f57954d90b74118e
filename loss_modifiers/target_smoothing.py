"""Label smoothing over the whole vocabulary, as the core line has it."""

from collections.abc import Sequence

import torch

from loss_modifiers.base import TOKEN_TYPES, LossModifier
from loss_modifiers.soft_answers import answer_log_probs, marked, smoothing_metrics


class TargetSmoothingModifier(LossModifier):
    """Takes `factor` of the belief from the right answer and spreads it evenly over the V - 1 others.

    A target that is a special token stays certain, though special tokens get their share as wrong answers. What
    earlier modifiers did to the loss stays: the difference that smoothing makes is added.

    exclude_padding: a target equal to `padding_token` costs nothing, but counts in the mean if the mask has it
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
        """Return the smoothed loss (B, T), 0 where the target is padding or no token at all."""
        vocab_size = logits.size(-1)
        log_probs, of_answer, answers = answer_log_probs(logits, targets)
        of_others = (log_probs.sum(dim=-1) - of_answer) / (vocab_size - 1)  # their mean
        certain = marked(self.special_tokens, vocab_size, logits.device)[answers]
        smoothed = torch.where(certain, loss, loss + self.factor * (of_answer - of_others))
        counts = (targets >= 0) & (targets < vocab_size)
        if self.exclude_padding:
            counts = counts & (targets != self.padding_token)
        smoothed = smoothed.masked_fill(~counts, 0.0)
        self._metrics = smoothing_metrics(loss, smoothed, mask, mask & counts, self.factor)
        return smoothed
