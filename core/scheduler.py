"""Learning rates as pure functions of the iteration, without a state to save."""

import math
from abc import ABC, abstractmethod
from typing import Any


class LRScheduler(ABC):
    """A learning rate for every iteration.

    The contract: `get_lr(iter_num)` depends only on its argument and is defined for any iteration, also after the end
    of the schedule, where it keeps its last value. A schedule that depends on the validation loss has a `state_dict`,
    and returns the same values between two evaluations.

    A parameter group of the optimizer may have an `lr_factor`, which its rate is multiplied by; it is saved with the
    optimizer. A schedule with several rates returns that of a group in `get_group_lr`.
    """

    @abstractmethod
    def get_lr(self, iter_num: int) -> float:
        """Return the learning rate of one iteration."""

    def get_group_lr(self, iter_num: int, group: dict[str, Any]) -> float:
        """Return the rate of one parameter group, before its `lr_factor`."""
        return self.get_lr(iter_num)

    def set_lr(self, groups: list[dict[str, Any]], iter_num: int, scale: float = 1.0) -> float:
        """Set every parameter group's rate of this iteration, times `scale`. Return the first group's."""
        for group in groups:
            group["lr"] = self.get_group_lr(iter_num, group) * scale * group.get("lr_factor", 1.0)
        return float(groups[0]["lr"])


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
        """Return the learning rate of one iteration, to the bit that nanoGPT computes.

        Without iterations between warm-up and end, where nanoGPT divides by zero, the warm-up ends at the peak.
        """
        if self.constant:
            return self.peak
        if iter_num < self.warmup_iters:
            return warmup(self.peak, iter_num, self.warmup_iters)
        if iter_num > self.lr_decay_iters:
            return self.floor
        if self.lr_decay_iters == self.warmup_iters:
            return self.peak
        progress = (iter_num - self.warmup_iters) / (self.lr_decay_iters - self.warmup_iters)
        share = 0.5 * (1.0 + math.cos(math.pi * progress))  # 1 at the end of the warm-up, 0 at the end of the decay
        return self.floor + share * (self.peak - self.floor)


class ConstantLRScheduler(LRScheduler):
    """Linear warm-up to `learning_rate`, then constant."""

    def __init__(self, learning_rate: float, warmup_iters: float) -> None:
        self.peak = learning_rate
        self.warmup_iters = warmup_iters

    def get_lr(self, iter_num: int) -> float:
        """Return the learning rate of one iteration."""
        return warmup(self.peak, iter_num, self.warmup_iters) if iter_num < self.warmup_iters else self.peak


class WSDLRScheduler(LRScheduler):
    """Warm-up, stable, decay: `learning_rate` is held until the last `decay_iters` iterations before `lr_decay_iters`.

    In these it falls linearly to `min_lr`, so the length of a run can be decided late. Hu et al. 2024,
    https://arxiv.org/abs/2404.06395
    """

    def __init__(
        self, learning_rate: float, warmup_iters: float, lr_decay_iters: float, min_lr: float, decay_iters: float
    ) -> None:
        self.peak = learning_rate
        self.floor = min_lr
        self.warmup_iters = warmup_iters
        self.decay_begin = max(lr_decay_iters - decay_iters, warmup_iters)
        self.decay_end = lr_decay_iters

    def get_lr(self, iter_num: int) -> float:
        """Return the learning rate of one iteration."""
        if iter_num < self.warmup_iters:
            return warmup(self.peak, iter_num, self.warmup_iters)
        return fall(self.peak, self.floor, iter_num, self.decay_begin, self.decay_end)


class LinearLRScheduler(LRScheduler):
    """Linear warm-up to `learning_rate`, linear decay to `min_lr`, then constant."""

    def __init__(self, learning_rate: float, warmup_iters: float, lr_decay_iters: float, min_lr: float) -> None:
        self.peak = learning_rate
        self.floor = min_lr
        self.warmup_iters = warmup_iters
        self.lr_decay_iters = lr_decay_iters

    def get_lr(self, iter_num: int) -> float:
        """Return the learning rate of one iteration."""
        if iter_num < self.warmup_iters:
            return warmup(self.peak, iter_num, self.warmup_iters)
        return fall(self.peak, self.floor, iter_num, self.warmup_iters, self.lr_decay_iters)


class StepLRScheduler(LRScheduler):
    """Linear warm-up to `learning_rate`, then multiplied by `gamma` after each epoch.

    updates_per_epoch: may be a fraction; an epoch ends with the update that completes it
    """

    def __init__(self, learning_rate: float, warmup_iters: float, updates_per_epoch: float, gamma: float) -> None:
        self.peak = learning_rate
        self.warmup_iters = warmup_iters
        self.updates_per_epoch = updates_per_epoch
        self.gamma = gamma

    def get_lr(self, iter_num: int) -> float:
        """Return the learning rate of one iteration."""
        lr = warmup(self.peak, iter_num, self.warmup_iters) if iter_num < self.warmup_iters else self.peak
        completed = math.floor(max(iter_num, 0) / self.updates_per_epoch + 1e-9)
        return float(lr * self.gamma**completed)


class InverseSqrtLRScheduler(LRScheduler):
    """Linear warm-up to `learning_rate`, then falling with the square root of the iteration, never below `min_lr`.

    The transformer's first schedule, without an end. Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
    """

    def __init__(self, learning_rate: float, warmup_iters: float, min_lr: float = 0.0) -> None:
        self.peak = learning_rate
        self.floor = min_lr
        self.warmup_iters = warmup_iters

    def get_lr(self, iter_num: int) -> float:
        """Return the learning rate of one iteration."""
        if iter_num < self.warmup_iters:
            return warmup(self.peak, iter_num, self.warmup_iters)
        return max(self.peak * math.sqrt((self.warmup_iters + 1) / (max(iter_num, 0) + 1)), self.floor)


def warmup(peak: float, iter_num: int, warmup_iters: float) -> float:
    """Return nanoGPT's linear warm-up, which starts above zero and would reach `peak` at `warmup_iters`."""
    return peak * (max(iter_num, 0) + 1) / (warmup_iters + 1)


def fall(peak: float, floor: float, iter_num: int, begin: float, end: float) -> float:
    """Return the linear decay from `peak` at iteration `begin` to `floor` at `end`, constant before and after.

    If both are the same iteration, that one has `peak`.
    """
    if iter_num > end or iter_num == end > begin:
        return floor
    share = min((end - iter_num) / (end - begin), 1.0) if end > begin else 1.0
    return floor + share * (peak - floor)
