"""Learning rate schedules for fine-tuning a pretrained model."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from core.callback import Callback
from core.scheduler import LRScheduler, warmup

if TYPE_CHECKING:
    import torch

    from core.trainer import Trainer

log = logging.getLogger("coregpt")

TRANSFER_DECAY_ITERS = 1000  # iterations until half of the decay is done
TRANSFER_HEAD_FACTOR = 2.0  # the head's learning rate over the transformer's, once both train
FADING_ITERS = 100  # iterations until half of the decay is done
ADAPTIVE_STATE = ("rate", "rate_before", "changed_at", "lowest_loss", "stale_count", "reductions", "judged_at")


class WarmupOnlyScheduler(LRScheduler):
    """Linear warm-up, a plateau, and a hyperbolic decay towards `min_lr_ratio * learning_rate` without an end.

    hold_iters: length of the plateau; None: the length of the warm-up
    """

    def __init__(
        self, learning_rate: float, warmup_iters: float, hold_iters: float | None = None, min_lr_ratio: float = 0.1
    ) -> None:
        self.peak = learning_rate
        self.warmup_iters = warmup_iters
        self.hold_iters = warmup_iters if hold_iters is None else hold_iters
        self.min_lr_ratio = min_lr_ratio

    def get_lr(self, iter_num: int) -> float:
        if iter_num < self.warmup_iters:
            return warmup(self.peak, iter_num, self.warmup_iters)
        late = max(iter_num - self.warmup_iters - self.hold_iters, 0)
        left = FADING_ITERS / (late + FADING_ITERS)  # 1 on the plateau, then towards 0
        return self.peak * (self.min_lr_ratio + (1 - self.min_lr_ratio) * left)


class TransferLearningScheduler(LRScheduler):
    """Two phases: a new head trains on a frozen transformer, then both train.

    In the first `feature_extraction_iters` iterations the head's learning rate warms up to
    `base_lr * head_lr_multiplier`, and the transformer's is 0. Then the transformer's starts at
    `base_lr * unfreeze_lr_drop`, the head's at twice that, and both decay towards `min_lr_ratio` of these values.
    `get_lr` returns the transformer's; parameter groups marked `is_head` (see `extras.freezing.mark_heads`) have the
    head's.

    These learning rates include the drop: `Unfreezing` needs a multiplier of 1, or the drop is applied twice.
    """

    def __init__(
        self,
        base_lr: float = 5e-5,
        head_lr_multiplier: float = 10.0,
        warmup_iters: float = 500,
        feature_extraction_iters: float = 2000,
        unfreeze_lr_drop: float = 0.1,
        decay_lr: bool = True,
        min_lr_ratio: float = 0.1,
    ) -> None:
        self.head_peak = base_lr * head_lr_multiplier
        self.tuning_peak = base_lr * unfreeze_lr_drop
        self.warmup_iters = warmup_iters
        self.feature_extraction_iters = feature_extraction_iters
        self.decay_lr = decay_lr
        self.min_lr_ratio = min_lr_ratio

    def get_lr(self, iter_num: int) -> float:
        """Return the transformer's learning rate of one iteration."""
        late = iter_num - self.feature_extraction_iters
        if late < 0:
            return 0.0
        if not self.decay_lr:
            return self.tuning_peak
        share = 0.5 * (1.0 + math.cos(math.pi * late / (late + TRANSFER_DECAY_ITERS)))  # from 1 towards 0
        return self.tuning_peak * (self.min_lr_ratio + (1 - self.min_lr_ratio) * share)

    def get_head_lr(self, iter_num: int) -> float:
        """Return the head's learning rate of one iteration."""
        if iter_num >= self.feature_extraction_iters:
            return self.get_lr(iter_num) * TRANSFER_HEAD_FACTOR
        return warmup(self.head_peak, iter_num, self.warmup_iters) if iter_num < self.warmup_iters else self.head_peak

    def get_group_lr(self, iter_num: int, group: dict[str, Any]) -> float:
        return self.get_head_lr(iter_num) if group.get("is_head") else self.get_lr(iter_num)


class AdaptiveScheduler(LRScheduler, Callback):
    """Linear warm-up, then constant; reduced after `patience` evaluations in a row without a lower validation loss.

    The trainer needs it both as schedule and as callback: the callback sees every evaluation, and its state is saved
    with each checkpoint. A learning rate that is reduced in an evaluation applies from the next iteration on, because
    the current iteration has its learning rate already. A resumed run skips the evaluation and computes the same.

    factor: the learning rate is multiplied by it, down to `min_lr`
    """

    def __init__(
        self,
        initial_lr: float,
        *,
        warmup_iters: float = 100,
        patience: int = 3,
        min_lr: float = 1e-6,
        factor: float = 0.5,
    ) -> None:
        self.rate = self.rate_before = initial_lr
        self.changed_at = -math.inf  # the last iteration with `rate_before`
        self.lowest_loss = math.inf
        self.stale_count = 0  # consecutive evaluations without a lower loss
        self.reductions = 0
        self.judged_at = -1  # a resume with reseeded random numbers repeats an evaluation: count it once

        self.factor, self.floor = factor, min_lr
        self.patience = patience
        self.warmup_iters = warmup_iters

    def get_lr(self, iter_num: int) -> float:
        lr = self.rate if iter_num > self.changed_at else self.rate_before
        return warmup(lr, iter_num, self.warmup_iters) if iter_num < self.warmup_iters else lr

    def step(self, val_loss: float, iter_num: float = -math.inf) -> bool:
        """Record a validation loss; return whether the learning rate was reduced.

        iter_num: iteration of the evaluation, which keeps its learning rate; by default the change applies at once
        """
        if val_loss < self.lowest_loss:
            self.lowest_loss = val_loss
            self.stale_count = 0
            return False
        self.stale_count += 1  # also if the loss is NaN
        if self.stale_count < self.patience:
            return False
        self.stale_count = 0
        self.reductions += 1
        self.rate_before, self.changed_at = self.rate, iter_num
        self.rate = min(self.rate, max(self.rate * self.factor, self.floor))
        return self.rate < self.rate_before

    def on_eval_end(self, trainer: Trainer, losses: dict[str, torch.Tensor]) -> None:
        """Record the validation loss, which is the same on all ranks."""
        if trainer.iter_num == self.judged_at:
            return
        self.judged_at = trainer.iter_num
        if self.step(losses["val"].item(), trainer.iter_num):
            log.info(f"iteration {trainer.iter_num}: no lower validation loss, learning rate {self.rate:g}")

    def state_dict(self) -> dict[str, Any]:
        """Return the learning rates, and the record of the validation loss."""
        return {name: getattr(self, name) for name in ADAPTIVE_STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        for name in ADAPTIVE_STATE:
            setattr(self, name, state[name])
