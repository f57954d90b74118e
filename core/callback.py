"""What may watch a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from core.trainer import Trainer
    from core.training_step import StepResult


class Callback:
    """Base of callbacks: every method is empty, override the ones you need.

    The contract: read the trainer, log through `trainer.logger`, call `trainer.stop(reason)` or `trainer.save()`;
    do not replace its parts or draw from torch's global random generator. Under several processes each rank has its
    own; a decision to stop must come out the same on all of them. One with `state_dict` and `load_state_dict` is
    saved in every checkpoint, under its class name.

        class Patience(Callback):
            def on_eval_end(self, trainer, losses):
                if losses["val"] > 2 * trainer.best_val_loss:
                    trainer.stop("validation loss has doubled")
    """

    def on_train_begin(self, trainer: Trainer) -> None:
        """Called once, before the first iteration."""

    def on_train_end(self, trainer: Trainer) -> None:
        """Called once, after the last iteration."""

    def on_step_begin(self, trainer: Trainer) -> None:
        """Called before each update."""

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        """Called after each update; on a CPU it is known to be sound. Reading a tensor of `result` waits for a GPU."""

    def on_eval_begin(self, trainer: Trainer) -> None:
        """Called before each evaluation."""

    def on_eval_end(self, trainer: Trainer, losses: dict[str, torch.Tensor]) -> None:
        """Called after each evaluation with the mean loss of each split, the same on all ranks."""

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """Called after a checkpoint is safely written to `path`."""
