"""SequenceScoringJudgeWeightModifier: more weight for sequences whose completion a judge scores badly."""

from typing import Any

import torch

from core.errors import ConfigError
from loss_modifiers.base import LossModifier, weighted
from loss_modifiers.draw import sampled
from loss_modifiers.judge import Judge
from loss_modifiers.moving_average import MovingAverage


class SequenceScoringJudgeWeightModifier(LossModifier):
    """Weights each sequence by (judge's score / expected score) ** exponent, clamped.

    The judge scores a completion that is sampled from the logits at all positions, masked or not. The expected score is
    that of the fraction of valid positions. The exponent is 0 up to `start_iter` (the judge is not called), and grows
    linearly to its full value at `max_iter`. The samples come from a private generator, so that training's random
    numbers do not change.

    device: device of the logits
    seed:   seed of the private generator; ranks should have different ones
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
        """Return the weighted loss in its shape, (B, T) or (B,)."""
        exponent = self.get_exponent(self.iter_num)
        self._metrics = {}
        if exponent == 0.0:
            return loss * min(max(1.0, self.limits[0]), self.limits[1])
        factor = self._wrongness(logits.detach(), mask)
        full = factor.pow(self.exponent).clamp(*self.limits)  # the weight at the end of the schedule
        self._metrics = {  # legacy names, kept for dashboards
            "multiplayer_median": self._median.update(full.median()),
            "multiplayer_std_ema": self._std.update(full.std(correction=0)),
        }
        return weighted(loss, factor.pow(exponent).clamp(*self.limits))

    def _wrongness(self, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return judge's score / expected score (B,)."""
        score = self.judge(sampled(logits, self.generator))
        fraction = (mask.sum(dim=1) / (mask.size(1) + self.eps)).clamp(min=self.eps)
        return score / self.judge.expected(fraction).clamp(self.eps, 1.0)

    def state_dict(self) -> dict[str, Any]:
        averages = {"median_ema": self._median.value, "std_ema": self._std.value}
        return {"generator": self.generator.get_state(), **averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the moving averages, and the generator if the state is of the same type of device."""
        if len(state["generator"]) == len(self.generator.get_state()):
            self.generator.set_state(state["generator"].cpu())
        self._median.value, self._std.value = state["median_ema"], state["std_ema"]
