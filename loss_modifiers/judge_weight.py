"""More weight for the sequences whose completion a judge finds worse than their masked share explains."""

from typing import Any

import torch

from core.errors import ConfigError
from loss_modifiers.base import LossModifier, weigh
from loss_modifiers.draw import sampled
from loss_modifiers.judge import Judge
from loss_modifiers.moving_average import MovingAverage


class SequenceScoringJudgeWeightModifier(LossModifier):
    """Weighs each sequence by (judge's score / expected score for its share of valid positions) ** exponent, clamped.

    The judge scores a completion drawn from the logits, at every position, on or off the mask. The exponent is 0 up to
    `start_iter` (the judge is not asked), and grows linearly to its full value at `max_iter`. The draws come from a
    generator of its own: training's random numbers stay as they are.

    device: the logits'; seed: another on each rank
    """

    training_types = ("language_model", "unmasking")

    def __init__(
        self,
        judge: Judge,
        start_iter: int,
        max_iter: int,
        exponent: float = 1.0,
        min_factor: float = 0.1,
        max_factor: float = 10.0,
        eps: float = 1e-6,
        device: torch.device | str = "cpu",
        seed: int = 1337,
    ) -> None:
        if max_iter < start_iter:
            raise ConfigError(f"judge_max_iter={max_iter}: wanted at least judge_start_iter={start_iter}")
        self.judge = judge
        self.start_iter = start_iter
        self.max_iter = max_iter
        self.exponent = exponent
        self.limits = min_factor, max_factor
        self.eps = eps
        self.generator = torch.Generator(device).manual_seed(seed)
        self._median, self._std = MovingAverage(keep=0.99), MovingAverage(keep=0.99)

    def get_exponent(self, iter_num: int) -> float:
        """Return the exponent at an iteration."""
        if iter_num <= self.start_iter:
            return 0.0
        if iter_num >= self.max_iter:
            return self.exponent
        return self.exponent * (iter_num - self.start_iter) / (self.max_iter - self.start_iter)

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the weighted losses, of positions or sequences as they came."""
        exponent = self.get_exponent(self.iter_num)
        self._metrics = {}
        if exponent == 0.0:
            return loss * min(max(1.0, self.limits[0]), self.limits[1])
        factor = self._wrongness(logits.detach(), mask)
        full = factor.pow(self.exponent).clamp(*self.limits)  # what the schedule leads to
        self._metrics = {  # the names that dashboards know
            "multiplayer_median": self._median.update(full.median()),
            "multiplayer_std_ema": self._std.update(full.std(correction=0)),
        }
        return weigh(loss, factor.pow(exponent).clamp(*self.limits))

    def _wrongness(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        score = self.judge(sampled(logits, self.generator))
        share = (mask.sum(dim=1) / (mask.size(1) + self.eps)).clamp(min=self.eps)
        return score / self.judge.expected(share).clamp(self.eps, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state and the moving averages."""
        averages = {"median_ema": self._median.value, "std_ema": self._std.value}
        return {"generator": self.generator.get_state(), **averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same draws and averages; on another kind of device the draws begin afresh."""
        if len(state["generator"]) == len(self.generator.get_state()):
            self.generator.set_state(state["generator"].cpu())
        self._median.value, self._std.value = state["median_ema"], state["std_ema"]
