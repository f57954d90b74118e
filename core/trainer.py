"""The training loop, and what it takes to save, restore, recover and stop it."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.callback import CallbackList
from core.checkpoint.provenance import differences
from core.checkpoint.resume import changed_options, require_counters
from core.errors import CheckpointError, PreemptedError, SaveError
from core.preemption import Interrupted
from core.stability.diagnosis import diagnose
from core.stability.flags import Ballot

if TYPE_CHECKING:
    from core.callback import Callback
    from core.checkpoint.checkpointer import Archive
    from core.evaluator import Evaluator
    from core.logger import CompositeLogger
    from core.preemption import Preemption
    from core.runtime import Runtime
    from core.scheduler import LRScheduler
    from core.stability.flags import Answers
    from core.stability.recovery import Recovery
    from core.training_step import StepResult, TrainingStep

log = logging.getLogger("coregpt")
SPLITS = ("train", "val")
WARMUP_STEPS = 5  # iterations before the mfu is trusted; until then it reads -100%
State = dict[str, Any]


class Trainer:
    """Runs the parts it is given in nanoGPT's order, and keeps the few numbers that belong to the run as a whole.

    raw_model:          the model itself, neither compiled nor wrapped, for the mfu and the diagnosis
    sequences_per_iter: sequences this process sees per iteration, for the mfu
    config:             the options, as every checkpoint keeps them
    """

    def __init__(
        self,
        raw_model: Any,
        step: TrainingStep,
        scheduler: LRScheduler,
        evaluator: Evaluator,
        archive: Archive,
        recovery: Recovery,
        preemption: Preemption,
        logger: CompositeLogger,
        runtime: Runtime,
        callbacks: Sequence[Callback] = (),
        *,
        max_iters: float,
        eval_interval: int,
        log_interval: int,
        eval_only: bool,
        always_save_checkpoint: bool,
        sequences_per_iter: int,
        config: State,
    ) -> None:
        self.raw_model = raw_model
        self.step = step
        self.scheduler = scheduler
        self.evaluator = evaluator
        self.detector = archive.detector
        self.recovery = recovery
        self.archive = archive
        self.saves = archive.saves
        self.preemption = preemption
        self.logger = logger
        self.runtime = runtime
        self.ballot = Ballot(runtime.any_rank)
        self.callbacks = CallbackList(callbacks)

        self.max_iters = max_iters
        self.eval_interval = eval_interval
        self.log_interval = log_interval
        self.eval_only = eval_only
        self.always_save_checkpoint = always_save_checkpoint
        self.sequences_per_iter = sequences_per_iter
        self.config = config
        self.out_dir = archive.checkpoints.out_dir

        self.iter_num = 0
        self.local_iter_num = 0  # iterations made by this process
        self.best_val_loss = float("inf")  # the lowest seen
        self.saved_val_loss: torch.Tensor | float = 1e9  # nanoGPT's best_val_loss: of the last save, better or not
        self.evaluated_at: int | None = None  # the last one; a resume does not repeat it
        self.losses: dict[str, torch.Tensor] = {}  # the last evaluation's
        self.running_mfu = -1.0
        self.stop_reason: str | None = None  # all ranks have agreed to stop
        self.stop_wish: str | None = None  # this rank wants to
        self.preempted = False  # it is a signal or the clock that stops the run
        self.save_wish = False  # some rank's clock says it is time
        self.is_evaluating = False
        self.answers: Answers | None = None
        self.trail: deque[tuple[int, Any, State]] = deque(maxlen=2)  # of updates: a GPU tells of the one before
        self.top: State = {}  # where the evaluation or update at hand began, should it be abandoned

    def train(self) -> float:
        """Train until `max_iters`, or until somebody calls `stop`. Return the lowest validation loss seen."""
        self.begin()  # draws the first batch, ahead of the first evaluation
        t0 = time.perf_counter()
        while not self.should_terminate(self.iter_num) or not self.finish():
            # set the learning rate of this iteration
            lr = self.scheduler.set_lr(self.step.optimizer.param_groups, self.iter_num, self.recovery.lr_scale)

            # now and then: measure the loss on both splits, and save
            if self.should_evaluate(self.iter_num) and not self.evaluate(lr):
                continue
            if self.should_save(self.iter_num) and not self.save():
                continue

            # one update; none, where it turned out unsound and the run is back at a checkpoint
            result = self.update() if self.emit("on_step_begin") else None
            if result is None or not self.emit("on_step_end", result):
                continue

            # now and then: report. Reading the loss waits for the device, so it happens nowhere else
            t1 = time.perf_counter()
            if self.should_log(self.iter_num):
                self.report(result, t1 - t0)
            t0 = t1

            self.iter_num += 1
            self.local_iter_num += 1
        return self.best_val_loss

    def should_evaluate(self, iter_num: int) -> bool:
        """Evaluate every `eval_interval` iterations, but not again what was evaluated before a checkpoint was saved."""
        return self.eval_only or (iter_num % self.eval_interval == 0 and iter_num != self.evaluated_at)

    def should_save(self, iter_num: int) -> bool:
        """Save when the schedule says so, beside the checkpoints that evaluations write."""
        return self.save_wish or self.saves.falls_on(iter_num)

    def should_log(self, iter_num: int) -> bool:
        """Report every `log_interval` iterations."""
        return iter_num % self.log_interval == 0

    def should_terminate(self, iter_num: int) -> bool:
        """Stop after iteration `max_iters`, which is `max_iters + 1` updates, or when somebody asked for it."""
        return self.stop_reason is not None or (iter_num > self.max_iters and not self.eval_only)

    # what happens before and in an iteration

    def begin(self) -> None:
        """Note where the run starts, and draw the first batch: before the first evaluation, as nanoGPT does."""
        self.archive.begin(self.state_dict())
        self._draw_ahead()
        self.emit("on_train_begin")

    def _draw_ahead(self) -> None:
        try:
            self.step.prefetch()
        except Interrupted:
            self.preempt()

    def evaluate(self, lr: float) -> bool:
        """Measure both losses on the master, tell every rank, report, and save if that is due.

        Return whether to go on with the iteration.
        """
        if self.settle() or self.stop_reason is not None or not self.emit("on_eval_begin"):
            return False
        self.top = self.archive.position()
        measured = self.runtime.on_master(lambda: self.preemption.attempt(self.evaluator.evaluate_splits))
        if measured is None:
            self.abandon()
            return False
        losses = {split: measured[split] for split in SPLITS}
        beside = {name: value for name, value in measured.items() if name not in losses}
        self.evaluated_at, self.losses = self.iter_num, losses
        metrics = {"train/loss": losses["train"], "val/loss": losses["val"], **beside}
        self.logger.log_eval({"iter": self.iter_num, **metrics, "lr": lr, "mfu": self.running_mfu * 100})
        self.best_val_loss = min(self.best_val_loss, losses["val"].item())
        self.is_evaluating = True  # what callbacks save now is saved below, or right after
        still_here = self.emit("on_eval_end", losses)
        self.is_evaluating = False
        if self.eval_only:
            self.stop_reason = "eval_only"
        if self.eval_only or not still_here:
            return False
        finite = self.detector.check_validation_stability(losses)
        if not finite and self.react("the evaluation after it is not finite", self.iter_num - 1):
            return False
        if losses["val"] < self.saved_val_loss or self.always_save_checkpoint:
            before, self.saved_val_loss = self.saved_val_loss, losses["val"]
            if self.iter_num > 0:
                goes_on = self.save(link=True)
                if goes_on and self.archive.failure:
                    self.saved_val_loss = before  # so that a later one is linked, though it be worse than this
                return goes_on
        return True

    def update(self) -> StepResult | None:
        """Make one update, and look at whether it was sound; None where it came to nothing."""
        self.top = self.archive.position()
        try:
            self.step.leave_out(self.recovery.left_out(self.iter_num))
            result = self.step.execute_step(self.agree)
        except Interrupted:
            self.abandon()
            return None
        self.trail.append((self.iter_num, self.step.used, self.top))
        answers, self.answers = self.answers, None
        return None if self.heed(answers) else result

    def agree(self, loss: torch.Tensor, grad_norm: torch.Tensor, metrics: dict[str, torch.Tensor]) -> torch.Tensor:
        """Put to all ranks whether this update is unsound, and whether to stop or save after it.

        loss: mean over the update's micro-batches

        Return a flag on the device: leave the update out.
        """
        causes = self.detector.inspect(loss, grad_norm, metrics)
        wishes = [self.preemption.requested, self.stop_wish, self.saves.is_overdue()]
        flags = [*causes, *(self.runtime.flag(bool(wish)) for wish in wishes)]
        agreed, self.answers = self.ballot.cast(self.iter_num, flags)
        return agreed[: len(causes)].any() & self.runtime.flag(self.recovery.leaves_out)

    def heed(self, answers: Answers | None) -> bool:
        """Do what all ranks agreed on. Return whether the run went back to a checkpoint."""
        if answers is None:
            return False
        *causes, preempted, stop, self.save_wish = answers.flags
        if preempted:
            self.preempt()
        elif stop:
            self.stop_reason = self.stop_wish or "another process asked for it"
        if cause := self.detector.causes(causes):
            return self.react(cause, answers.iter_num)
        self.recovery.dropped = 0
        return False

    def settle(self) -> bool:
        """Wait for what a GPU still has to say on the last update. Return whether the run went back to a checkpoint."""
        return self.heed(self.ballot.settle())

    def report(self, result: StepResult, seconds: float) -> None:
        """Log an update under nanoGPT's names: the last micro-batch's loss, the time it took, the running mfu."""
        loss = result.loss.item() * self.step.gradient_accumulation_steps
        if self.local_iter_num >= WARMUP_STEPS:
            mfu = self.raw_model.estimate_mfu(self.sequences_per_iter, seconds)
            self.running_mfu = mfu if self.running_mfu == -1.0 else 0.9 * self.running_mfu + 0.1 * mfu
        lr = self.step.optimizer.param_groups[0]["lr"]  # a callback may have changed it before the update
        metrics = {"iter": self.iter_num, "loss": loss, "lr": lr, "time_ms": seconds * 1000}
        if result.grad_norm is not None:
            metrics["grad_norm"] = result.grad_norm.item()
        metrics |= {name: float(value) for name, value in result.metrics.items()}
        self.logger.log_step({**metrics, "mfu": self.running_mfu * 100})

    # what is done about an update that was not sound

    def react(self, cause: str, iter_num: int) -> bool:
        """Act on an instability in the update of `iter_num`, on all ranks alike. Return whether the run went back."""
        goes_back = self.recovery.decide(cause, iter_num, lambda: self._diagnosis(iter_num))
        if goes_back:
            self.recover(cause, iter_num)
        return goes_back

    def recover(self, cause: str, iter_num: int) -> None:
        """Go back to the last healthy checkpoint, or to the beginning, and leave the offending batches out."""
        state, name = self.archive.go_back()
        self.load_state_dict(state)
        self._draw_ahead()
        self.local_iter_num = self.step.updates
        self.ballot.clear()
        self.recovery.healthy, self.save_wish = True, False
        self.recovery.record(cause, iter_num, self.iter_num)
        count = f"recovery {len(self.recovery.history)} of {self.recovery.max_recoveries}"
        place = f"iteration {self.iter_num} ({name})"
        log.warning(f"iteration {iter_num}: {cause}; going on from {place} without that batch; {count}")
        self.logger.log_event({"event": "recovery", "history": self.recovery.history})

    def _diagnosis(self, iter_num: int) -> str:
        """Return the first rank's report on its last batch that has something not finite in it; else the master's."""
        losses = [loss.item() for loss in self.detector.recent]
        batch, top = next(((batch, top) for number, batch, top in self.trail if number == iter_num), (None, {}))
        with self.step.autocast:
            found = diagnose(self.raw_model, self.step.objective, batch, losses)
        if "data" in top:
            found += f"\nthe data of the update began at: {top['data']}"
        reports = self.runtime.gather(found)
        return next((report for report in reports if "not finite" in report), reports[0])

    # how it ends

    def stop(self, reason: str) -> None:
        """Ask the loop to end: after this iteration, or under several processes after the next, on all alike."""
        log.info(f"stopping after iteration {self.iter_num}: {reason}")
        self.stop_wish = reason
        if self.runtime.world_size == 1:
            self.stop_reason = reason

    def abandon(self) -> None:
        """Take back an evaluation or an update that a signal interrupted, and stop."""
        self.archive.go_to(self.top)
        self.preempt()

    def preempt(self) -> None:
        """Stop because some process was told to by a signal or the clock."""
        self.preempted = True
        self.stop_reason = self.preemption.requested or "a signal to another process"

    def finish(self) -> bool:
        """Save what was done since the last checkpoint, and end as the run was asked to.

        Return False if the run has to go on, as what was done turned out unsound and it is back at a checkpoint.
        """
        if self.settle():
            return False
        self._after_save(self.archive.join())  # what failed in the background is tried once more
        new = self.step.updates > 0 and not self.eval_only and self.saves.saved_at != self.iter_num
        if new and not self.save(wait=True):
            return False
        self._after_save(self.archive.join())
        if self.archive.failure:
            raise SaveError(f"the last checkpoint could not be saved in {self.out_dir}: {self.archive.failure}")
        self.emit("on_train_end")
        if self.preempted:
            where = f"at iteration {self.iter_num}; --init_from=resume goes on from there"
            where = where if self.step.updates or self.saves.saved_at is not None else "before the first update"
            raise PreemptedError(f"stopped by {self.stop_reason} {where}", self.preemption.exit_status)
        return True

    # what is kept

    def save(self, link: bool = False, wait: bool = False) -> bool:
        """Write a checkpoint with nanoGPT's keys and all that an exact resume needs. Call it on every rank alike.

        link: let nanoGPT's ckpt.pt be this one, and print its line
        wait: do not leave it to the background

        Return False if the run went back to an older checkpoint instead, as this state is not sound.
        """
        if self.is_evaluating:
            self.save_wish = True
            return True
        if self.settle():
            return False
        if not self.archive.is_finite():
            self.archive.failure = "a weight or a moment of the optimizer is not finite"
            return not self.react(self.archive.failure, self.updates_made - 1)
        self._after_save(self.archive.join())
        if link:
            self.logger.log_checkpoint(f"saving checkpoint to {self.out_dir}")
        self._after_save(self.archive.save(self.state_dict(), self._notes(), link=link, wait=wait))
        self.save_wish = False
        if self.archive.failure is None:
            self.recovery.healthy = True
        return True

    def _after_save(self, path: Path | None) -> None:
        if path is not None:
            self.emit("on_checkpoint", path)

    def _notes(self) -> State:
        """Return what the manifest says about the run at this point."""
        measured = self.losses if self.evaluated_at == self.updates_made else {}
        losses = {f"{split}_loss": loss.item() for split, loss in measured.items()}
        return {
            "iter_num": self.updates_made,
            "train_loss": losses.get("train_loss"),
            "val_loss": losses.get("val_loss"),
            "lowest_val_loss": self.best_val_loss if math.isfinite(self.best_val_loss) else None,
            "healthy": self.recovery.healthy,
            "finished": self.updates_made > self.max_iters,
        }

    @property
    def updates_made(self) -> int:
        """The iteration to go on with: one more than `iter_num` where the update is made but not yet counted."""
        return self.iter_num + self.step.updates - self.local_iter_num

    def state_dict(self) -> State:
        """Return counters, and the state of all parts that have one."""
        return {
            "iter_num": self.updates_made,
            "best_val_loss": self.saved_val_loss,
            "lowest_val_loss": self.best_val_loss,
            "evaluated_at": self.evaluated_at,
            "recovery": self.recovery.state_dict(),
            "callbacks": self.callbacks.state_dict(),
            "loggers": self.logger.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Take over counters, and the state of callbacks and loggers; the recoveries made stay counted."""
        self.iter_num = state["iter_num"]
        self.saved_val_loss = state["best_val_loss"]
        self.best_val_loss = float(state["lowest_val_loss"] if "lowest_val_loss" in state else state["best_val_loss"])
        self.evaluated_at, self.losses = state.get("evaluated_at"), {}
        self.callbacks.load_state_dict(state.get("callbacks", {}))
        self.logger.load_state_dict(state.get("loggers", {}))

    def restore(self, checkpoint: State, exact: bool, manifest: State | None = None) -> None:
        """Take over a checkpoint's counters, and with `exact` its random state, batch and scaler as well.

        Model and optimizer are restored before they are handed to the trainer. A checkpoint that lacks what `exact`
        needs is continued as nanoGPT does: other batches follow, and the evaluation is repeated.
        """
        require_counters(checkpoint)
        if changes := changed_options(checkpoint.get("config") or {}, self.config):
            log.info(f"resume: the options differ from the checkpoint's: {changes}")
        try:
            self.load_state_dict(checkpoint)
            if "recovery" in checkpoint:
                self.recovery.load_state_dict(checkpoint["recovery"])
            obstacle = self.archive.resume(checkpoint, manifest) if exact else "been told not to"
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"the checkpoint's own notes are damaged ({what}): it can be sampled from, but not resumed"
            ) from None
        if obstacle is None:
            self._tell(manifest)
            return
        self.evaluated_at = None
        if not (exact and checkpoint.get("ranks")):
            self.max_iters = max(self.max_iters, self.iter_num)  # nanoGPT makes one update, however late it is
        if exact:
            log.info(
                f"resume: the checkpoint has {obstacle}; weights, optimizer and counters are exact, but other batches "
                "follow, as with --resume_rng=reseed"
            )

    def _tell(self, manifest: State | None) -> None:
        """Say from where an exact resume goes on, and what may keep it from being exact."""
        if manifest is None:
            return
        log.info(f"resume: iteration {self.iter_num} from {manifest['file']}, checksum and next batch verified")
        if changes := differences(manifest, self.archive.provenance):
            log.info(f"resume: not where it was saved ({changes}): the last bits of the losses may differ from here on")

    def emit(self, event: str, *details: Any) -> bool:
        """Call every callback's method of this name.

        Return whether the run is still where it was: one that saves may find that it has to go back.
        """
        before = len(self.recovery.history)
        self.callbacks.emit(event, self, *details)
        return len(self.recovery.history) == before
