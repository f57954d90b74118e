"""The model at the end of a run, as a folder for other programs."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from core.callback import Callback
from core.checkpoint.format import STATE
from core.checkpoint.run_folder import FINAL, is_own_folder
from core.errors import CheckpointError
from core.files import PARTIAL, reason, remove

if TYPE_CHECKING:
    from core.trainer import Trainer

log = logging.getLogger("coregpt")


class FinalModel(Callback):
    """Copies the newest or the best checkpoint to `final_model` when a run ends: what other programs load of it.

    That is everything but training.pt. A run that was stopped by a signal or the clock goes on later, and writes none.

    which: last, or best, the checkpoint with the best metric
    """

    def __init__(self, which: str) -> None:
        self.which = which

    def on_train_end(self, trainer: Trainer) -> None:
        """Write the folder, on rank 0. A failure is logged: the run and its checkpoints are complete."""
        if not trainer.runtime.is_master or trainer.stop_request.is_preempted:
            return
        checkpoints = trainer.checkpointer.checkpoints
        target = checkpoints.folder / FINAL
        try:
            found = checkpoints.load()
            if self.which == "best":
                with suppress(CheckpointError):  # none was evaluated: the run was shorter than eval_interval
                    found = checkpoints.load_best()
            replace(found.path, target)
        except (CheckpointError, OSError) as error:
            log.warning(f"{target} could not be written ({reason(error)})")


def replace(source: Path, target: Path) -> None:
    """Copy a checkpoint's folder in place of an earlier copy; a folder of another program there stays.

    A crash leaves the earlier copy, the new one, or none.
    """
    if target.exists() and not is_own_folder(target):
        log.warning(f"{target} is not of a run, and stays: the model is in {source}")
        return
    part = target.with_name(target.name + PARTIAL)
    remove(part)
    shutil.copytree(source, part, ignore=shutil.ignore_patterns(STATE))
    remove(target)
    part.rename(target)
