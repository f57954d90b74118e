"""Saves a run that an error ends: data that vanish, a callback that fails, memory that runs out."""

from __future__ import annotations

import functools
import logging
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from core.checkpoint.update_watch import COMPLETE, PARTIAL
from core.errors import CoreGPTError, DivergedError, GroupError, PreemptedError, SaveError

if TYPE_CHECKING:
    from core.machine.emergency_exchange import EmergencyExchange
    from core.trainer import Trainer

log = logging.getLogger("coregpt")
Train = Callable[["Trainer"], float]
State = dict[str, Any]
# these have saved already, must not, or cannot; KeyboardInterrupt is the second Ctrl-C
NOT_SAVED = (PreemptedError, DivergedError, SaveError, KeyboardInterrupt)


class _CannotSave(Exception):
    """The last checkpoint stands. Its text says why."""


def saves_in_emergency(train: Train) -> Train:
    """Return `train` as a method that, when an error ends it, saves the state after the last complete update.

    A resume from it continues as if nothing had happened. The error goes on to the caller. With several processes
    every one calls this: an error of one breaks the collectives in which the others wait, and rank 0 saves.
    """

    @functools.wraps(train)
    def guarded(trainer: Trainer) -> float:
        pid = os.getpid()
        try:
            return train(trainer)
        except NOT_SAVED:
            raise
        except BaseException as error:
            if os.getpid() != pid:  # the end of a process that a callback has forked
                raise
            exchange = trainer.runtime.exchange
            if exchange is None:
                _report(trainer, _save(trainer))
                raise
            first = _save_together(trainer, exchange)
            if isinstance(error, CoreGPTError):
                error.is_printed_at_once = first in (None, exchange.rank)
            elif isinstance(error, RuntimeError) and "/gloo/" in str(error):  # from a collective that another rank left
                raise _error_of_other_rank(error, None if first == exchange.rank else first) from None
            raise

    return guarded


def _error_of_other_rank(error: RuntimeError, first: int | None) -> GroupError:
    """Return what to raise in place of a collective's error. first: the rank that ended the run, if it said so"""
    if first is None:
        return GroupError(
            "another process of this run has ended without a message, it may have been killed; or the network failed "
            f"({str(error).splitlines()[0]})"
        )
    new = GroupError(f"rank {first} ended the run, see its own message")
    new.is_printed_at_once = False
    return new


def _save_together(trainer: Trainer, exchange: EmergencyExchange) -> int | None:
    """Save on rank 0, with the positions of all ranks. Return the rank of the first error, None if it is not known."""
    try:
        message = pickle.dumps(_positions(trainer))
    except Exception:  # the state of a user's data source, for example
        message = pickle.dumps({})
    first = exchange.send(message)
    if exchange.rank == 0:
        _report(trainer, _save(trainer, exchange))
        exchange.announce_end()
    elif not exchange.wait_for_end() and not _is_saved(trainer):
        log.error(f"rank {exchange.rank}: rank 0 does not answer, the last checkpoint stands")
    return first


def _report(trainer: Trainer, outcome: str | None) -> None:
    if outcome:
        log.warning(f"an error ends the run: {outcome}; to go on: {trainer.checkpointer.resume_command()}")


def _save(trainer: Trainer, exchange: EmergencyExchange | None = None) -> str | None:
    """Save the state after the last complete update. Return what came of it; None if there is nothing to save."""
    checkpointer = trainer.checkpointer
    if trainer.eval_only or not trainer.step.updates:
        return None
    try:
        if trainer.runtime.world_size > 1 and _is_saved(trainer):
            trainer.runtime.leave_group()
            trainer.report_save(checkpointer.join())  # it may be in flight
            checkpointer.raise_if_failed()
        else:
            next_iter = _complete_updates(trainer)
            if trainer.runtime.world_size > 1:
                checkpointer.given_positions = _collect(exchange, next_iter)
                trainer.runtime.leave_group()
            _complete_iteration(trainer, next_iter)
            trainer.save_final()
    except _CannotSave as reason:
        return f"{reason}{checkpointer.kept}"
    except BaseException as error:  # of the disk, of memory, a rollback: the run ends by its own error anyway
        if not _is_saved(trainer):  # else it came from a callback after the save
            return f"its state could not be saved ({type(error).__name__}: {error}){checkpointer.kept}"
    return f"saved at iteration {trainer.iter_num}"


def _is_saved(trainer: Trainer) -> bool:
    """Return whether the newest checkpoint is of this moment."""
    is_between_updates = not trainer.step_start and not _is_uncounted(trainer)
    return is_between_updates and trainer.checkpointer.schedule.saved_at == trainer.iter_num


def _collect(exchange: EmergencyExchange | None, next_iter: int) -> list[State]:
    """Return the position of every rank before iteration `next_iter`."""
    if exchange is None:
        raise _CannotSave("its processes cannot be saved together")
    try:
        positions = [pickle.loads(message).get(next_iter) for message in exchange.collect()]
    except RuntimeError as error:  # a rank is missing, or the store has ended
        raise _CannotSave(str(error)) from None
    if None in positions:
        raise _CannotSave(f"rank {positions.index(None)} has no position of iteration {next_iter}")
    return positions


def _complete_updates(trainer: Trainer) -> int:
    """Return the iteration that comes next after the complete updates in the weights."""
    progress = trainer.step.watch.progress() if trainer.step.is_updating else None
    if progress == PARTIAL or trainer.checkpointer.is_rolling_back:
        raise _CannotSave("the weights may be half changed, and are not saved")
    return trainer.iter_num + (progress == COMPLETE or _is_uncounted(trainer))


def _is_uncounted(trainer: Trainer) -> bool:
    """Return whether the update of the iteration at hand is made, but not counted yet."""
    steps = trainer.monitor.recent_steps
    return bool(steps) and steps[-1].iter_num == trainer.iter_num


def _positions(trainer: Trainer) -> dict[int, State]:
    """Return the positions that this rank has kept, by the iteration that comes next.

    The ranks are never more than an update apart. Between the backward passes of an update and its end, the present
    position is already that after the update, as nothing more is drawn.
    """
    checkpointer, step, iter_num = trainer.checkpointer, trainer.step, trainer.iter_num
    if checkpointer.is_rolling_back:
        return {}
    kept = {recent.iter_num: recent.position for recent in trainer.monitor.recent_steps}
    if trainer.step_start:
        kept[iter_num] = trainer.step_start
    if step.is_updating or not trainer.step_start:
        kept[iter_num + (step.is_updating or _is_uncounted(trainer))] = checkpointer.position()
    return {number: checkpointer.saved_position(position) for number, position in kept.items()}


def _complete_iteration(trainer: Trainer, next_iter: int) -> None:
    """Undo what was begun of an evaluation or an update, or do what follows a complete one."""
    counters, step, report, iter_num = trainer.counters, trainer.step, trainer.report, trainer.iter_num
    if next_iter > iter_num:
        if step.is_updating:
            trainer.end_update(step.complete_update())
            with suppress(Exception):  # the error that ends the run comes first
                trainer.callbacks.emit("on_step_end", trainer, step.result)
        if trainer.should_log(iter_num) and step.result:
            trainer.logger.log_step(report.metrics(iter_num, step.result, report.lap()))
        counters.iter_num += 1
    elif trainer.step_start:
        step.is_updating = False
        trainer.checkpointer.restore_position(trainer.step_start)
        verdict = trainer.monitor.verdict()
        trainer.monitor.flags.clear()  # of the update that is undone; on a GPU the verdict is on the one before it
        if verdict and verdict.iter_num < iter_num:
            trainer.apply_verdict(verdict)
    elif counters.losses and trainer.checkpointer.schedule.saved_at != iter_num == counters.evaluated_at:
        trainer.save_evaluated(counters.losses)
