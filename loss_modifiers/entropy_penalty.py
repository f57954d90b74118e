"""EntropyPenaltyModifier: a growing penalty on wrong probability that is concentrated on a few tokens."""

import math
from typing import Any

import torch

from core.losses import mean_loss, per_sequence
from loss_modifiers.base import TOKEN_TYPES, LossModifier, weighted
from loss_modifiers.moving_average import MovingAverage
from loss_modifiers.wrong_tokens import entropy


class EntropyPenaltyModifier(LossModifier):
    """Multiplies each sequence's loss by 1 + penalty * (1 - entropy of its wrong tokens / log(V - 1)).

    The penalty is 0 before `start_iter` and grows linearly to `max_penalty` at `max_iters`. Gradients flow through the
    entropy. With a vocabulary of two tokens the loss does not change.
    """

    training_types = TOKEN_TYPES

    def __init__(self, max_penalty: float, start_iter: int, max_iters: int, ema_factor: float = 0.99) -> None:
        self.max_penalty = max_penalty
        self.start_iter = start_iter
        self.max_iters = max_iters
        self._ema = MovingAverage(keep=ema_factor, start=1.0)

    def get_penalty(self, iter_num: int) -> float:
        """Return the strength of the penalty at an iteration."""
        if iter_num < self.start_iter:
            return 0.0
        if iter_num >= self.max_iters:
            return self.max_penalty
        return self.max_penalty * (iter_num - self.start_iter) / (self.max_iters - self.start_iter)

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the multiplied loss in its shape, (B, T) or (B,)."""
        penalty = self.get_penalty(self.iter_num)
        multiplier = torch.ones_like(per_sequence(loss.detach(), mask))
        if penalty > 0 and logits.size(-1) > 2:
            of_sequence = per_sequence(entropy(logits, targets), mask)
            multiplier = 1.0 + penalty * (1.0 - of_sequence / math.log(logits.size(-1) - 1))
        ema = self._ema.update(mean_loss(multiplier.detach(), mask))
        self._metrics = {"entropy_penalty": torch.tensor(penalty), "multiplier_ema": ema}
        return weighted(loss, multiplier)

    def state_dict(self) -> dict[str, Any]:
        return {"multiplier_ema": self._ema.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ema.value = state["multiplier_ema"]
