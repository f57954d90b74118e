"""Saves a run that an error ends: data that vanish, a callback that fails, memory that runs out."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from core.errors import DivergedError, PreemptedError, SaveError

if TYPE_CHECKING:
    from core.trainer import Trainer

log = logging.getLogger("coregpt")
Train = Callable[["Trainer"], float]
# these have saved already, must not, or cannot; KeyboardInterrupt is the second Ctrl-C
NOT_SAVED = (PreemptedError, DivergedError, SaveError, KeyboardInterrupt)


def saves_in_emergency(train: Train) -> Train:
    """Return `train` as a method that, when an error ends it, saves the state after the last whole update.

    A resume from it continues as if nothing had happened. The error goes on to the caller.
    """

    @functools.wraps(train)
    def guarded(trainer: Trainer) -> float:
        pid = os.getpid()
        try:
            return train(trainer)
        except NOT_SAVED:
            raise
        except BaseException:
            if os.getpid() != pid:  # the end of a process that a callback has forked
                raise
            outcome = _save(trainer)
            if trainer.step.updates and not trainer.eval_only:
                log.warning(f"an error ends the run: {outcome}; to go on: {trainer.checkpointer.resume_command()}")
            raise

    return guarded


def _save(trainer: Trainer) -> str:
    """Save the state after the last whole update. Return what came of it, for a message."""
    if trainer.runtime.world_size > 1:  # the others may wait for this process without end
        return f"this process cannot save alone{trainer.checkpointer.kept}"
    if trainer.step.is_updating:
        return f"the weights may be half changed, and are not saved{trainer.checkpointer.kept}"
    try:
        _complete_iteration(trainer)
        trainer.save_final()
    except BaseException as error:  # of the disk, of memory, a rollback: the run ends by its own error anyway
        return f"its state could not be saved ({type(error).__name__}: {error}){trainer.checkpointer.kept}"
    return f"saved at iteration {trainer.iter_num}"


def _complete_iteration(trainer: Trainer) -> None:
    """Undo what was begun of an evaluation or an update, or do what follows a whole one."""
    counters, report, steps = trainer.counters, trainer.report, trainer.monitor.recent_steps
    if trainer.step_start:
        trainer.checkpointer.restore_position(trainer.step_start)
    elif trainer.result is not None and steps[-1].iter_num == trainer.iter_num:  # made, and not counted yet
        if trainer.should_log(trainer.iter_num):
            trainer.logger.log_step(report.metrics(trainer.iter_num, trainer.result, report.lap()))
        counters.iter_num += 1
    elif counters.losses and trainer.checkpointer.schedule.saved_at != trainer.iter_num == counters.evaluated_at:
        trainer.save_evaluated(counters.losses)
