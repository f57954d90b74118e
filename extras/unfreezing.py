"""Training the rest of a frozen model from some iteration on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from core.callback import Callback
from core.optimizer import UNFROZEN
from extras.freezing import extend_optimizer, is_frozen, unfreeze_transformer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from core.trainer import Trainer

log = logging.getLogger("coregpt")


class Unfreezing(Callback):
    """Unfreezes the transformer before the update of one iteration, and lowers the learning rate from then on.

    The optimizer keeps its state, and the new parameters are added to it; every group's `lr_factor` is multiplied by
    `lr_multiplier`, which scales the schedule. This callback has no state of its own: the optimizer's groups, which
    checkpoints hold, show whether the transformer is unfrozen. A resume calls `replay`. After a rollback to before the
    unfreezing the groups are dropped and the parameters frozen (`core.load_optimizer_state`), and it happens again.

    The model is wrapped again at each change, because DistributedDataParallel averages the gradients of the parameters
    that were trainable when it was made. Every rank does so in the same iteration.
    """

    def __init__(self, unfreeze_at_iteration: int, lr_multiplier: float, weight_decay: float) -> None:
        self.unfreeze_at_iteration = unfreeze_at_iteration
        self.lr_multiplier = lr_multiplier
        self.weight_decay = weight_decay
        self.frozen = False
        self.group_count = 0  # of the optimizer, when the model was wrapped

    def on_train_begin(self, trainer: Trainer) -> None:
        """Note what is frozen."""
        self._note_frozen(trainer)

    def on_step_begin(self, trainer: Trainer) -> None:
        """Unfreeze if it is due."""
        if len(trainer.step.optimizer.param_groups) != self.group_count:  # after a rollback to before the unfreezing
            trainer.step.wrap_again()
            self._note_frozen(trainer)
        if self.frozen and trainer.iter_num >= self.unfreeze_at_iteration:
            self._unfreeze(trainer)
            trainer.step.wrap_again()
            self._note_frozen(trainer)

    def _note_frozen(self, trainer: Trainer) -> None:
        self.frozen = is_frozen(trainer.raw_model)
        self.group_count = len(trainer.step.optimizer.param_groups)

    def _unfreeze(self, trainer: Trainer) -> None:
        optimizer, iter_num = trainer.step.optimizer, trainer.iter_num
        old_lr = optimizer.param_groups[0]["lr"]
        unfreeze_transformer(trainer.raw_model)
        added = extend_optimizer(optimizer, trainer.raw_model, self.weight_decay)
        for group in optimizer.param_groups:
            group["lr_factor"] = group.get("lr_factor", 1.0) * self.lr_multiplier
        new_lr = trainer.scheduler.set_lr(optimizer.param_groups, iter_num, trainer.monitor.lr_scale)
        log.info(f"iteration {iter_num}: {added} more tensors train; learning rate {new_lr:g}, was {old_lr:g}")
        rates = {"old_lr": old_lr, "new_lr": new_lr, "lr_multiplier": self.lr_multiplier}
        trainer.logger.log_event({"event": "unfreezing", "iter": iter_num, **rates})


def replay(model: nn.Module, optimizer: torch.optim.Optimizer, saved: Any, weight_decay: float) -> None:
    """Unfreeze a model that resumes from after its unfreezing; call it before the optimizer's state is loaded.

    saved: the checkpoint's optimizer state. Its groups show whether it is from before or after the unfreezing; its
           iteration does not, because checkpoints before and after it may have the same
    """
    groups = saved.get("param_groups") if isinstance(saved, dict) else None
    if isinstance(groups, list) and any(isinstance(group, dict) and group.get(UNFROZEN) for group in groups):
        unfreeze_transformer(model)
        extend_optimizer(optimizer, model, weight_decay)
