"""Label smoothing that gives nothing to special tokens, as the train_run line has it."""

from collections.abc import Sequence

import torch

from loss_modifiers.base import TOKEN_TYPES, LossModifier
from loss_modifiers.soft_answers import answer_log_probs, marked, smoothing_metrics


class LabelSmoothingModifier(LossModifier):
    """Leaves 1 - `factor` to the right answer, gives each other ordinary id factor / (number of ordinary ids).

    Special ids get nothing unless they are the target. The beliefs are then scaled to sum to 1. What earlier modifiers
    did to the loss stays: the difference that smoothing makes is added.
    """

    training_types = TOKEN_TYPES

    def __init__(self, factor: float = 0.1, special_tokens: Sequence[int] = ()) -> None:
        self.factor = factor
        self.special_tokens = tuple(special_tokens)

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the smoothed loss (B, T), 0 off the mask."""
        log_probs, of_answer, answers = answer_log_probs(logits, targets)
        special = marked(self.special_tokens, logits.size(-1), logits.device)  # (V,)
        is_special = special[answers]  # (B, T)
        ordinary = logits.size(-1) - len({number for number in self.special_tokens if 0 <= number < logits.size(-1)})
        share = self.factor / ordinary
        of_others = log_probs.masked_fill(special, 0.0).sum(dim=-1) - of_answer.masked_fill(is_special, 0.0)
        total = 1.0 - self.factor + share * (ordinary - 1 + is_special.to(of_answer.dtype))
        soft = -((1.0 - self.factor) * of_answer + share * of_others) / total
        smoothed = (loss + soft + of_answer).masked_fill(~mask, 0.0)
        self._metrics = smoothing_metrics(loss, smoothed, mask, mask, self.factor)
        return smoothed
