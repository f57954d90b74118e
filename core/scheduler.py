"""Learning rates as pure functions of the iteration: nothing to save, nothing to restore."""

import math
from abc import ABC, abstractmethod


class LRScheduler(ABC):
    """A learning rate for every iteration.

    The contract: `get_lr(iter_num)` depends on its argument alone and is defined for any iteration, also beyond the
    end of the schedule, where it holds its last value.
    """

    @abstractmethod
    def get_lr(self, iter_num: int) -> float:
        """Return the learning rate of one iteration."""


class CosineLRScheduler(LRScheduler):
    """nanoGPT's schedule: linear warm-up to `learning_rate`, half a cosine down to `min_lr`, then constant.

    decay_lr: False keeps `learning_rate` throughout, without warm-up
    """

    def __init__(
        self, learning_rate: float, warmup_iters: float, lr_decay_iters: float, min_lr: float, decay_lr: bool = True
    ) -> None:
        self.peak = learning_rate
        self.floor = min_lr
        self.warmup_iters = warmup_iters
        self.lr_decay_iters = lr_decay_iters
        self.constant = not decay_lr

    def get_lr(self, iter_num: int) -> float:
        """Return the learning rate of one iteration, to the bit that nanoGPT computes."""
        if self.constant:
            return self.peak
        if iter_num < self.warmup_iters:
            return self.peak * (max(iter_num, 0) + 1) / (self.warmup_iters + 1)
        if iter_num > self.lr_decay_iters or self.lr_decay_iters == self.warmup_iters:
            return self.floor
        progress = (iter_num - self.warmup_iters) / (self.lr_decay_iters - self.warmup_iters)
        share = 0.5 * (1.0 + math.cos(math.pi * progress))  # 1 at the end of the warm-up, 0 at the end of the decay
        return self.floor + share * (self.peak - self.floor)
