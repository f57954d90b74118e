"""The training loop, and how it reacts to instability, signals, and the end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.callback import CallbackList
from core.checkpoint.emergency import saves_in_emergency
from core.checkpoint.resume import damaged_if_it_fails, require_counters
from core.errors import DivergedError
from core.preemption import Interrupted
from core.run_state import VAL_LOSS, RunState
from core.stability.monitor import Requests
from core.stability.recovery import ROLL_BACK, STOP
from core.step_report import StepReport
from core.stop_request import StopRequest

if TYPE_CHECKING:
    import torch

    from core.callback import Callback
    from core.checkpoint.checkpointer import Checkpointer
    from core.evaluator import Evaluator
    from core.logger import CompositeLogger
    from core.preemption import Preemption
    from core.runtime import Runtime
    from core.scheduler import LRScheduler
    from core.stability.monitor import StabilityMonitor, StepVerdict
    from core.stability.recovery import Decision
    from core.training_step import StepResult, TrainingStep

log = logging.getLogger("coregpt")
State = dict[str, Any]


class LoopNumbers(NamedTuple):
    """The plain numbers of the loop, by the names of their options.

    sequences_per_iter: sequences that this process sees in an iteration, for the mfu
    tokens_per_iter:    tokens that all processes see in an iteration; 0: not known, and not reported
    updates_per_epoch:  None unless the learning rate depends on it
    """

    max_iters: float
    eval_interval: int
    log_interval: int
    sequences_per_iter: int
    eval_only: bool = False
    always_save_checkpoint: bool = True
    check_every_step: bool = False
    tokens_per_iter: int = 0
    best_metric: str = VAL_LOSS
    best_mode: str = "min"
    updates_per_epoch: float | None = None


class _RolledBack(Exception):
    """Raised after a rollback, to leave the iteration. Its text names the cause and the checkpoint."""


class Trainer:
    """Runs the parts it is given in nanoGPT's order, and reacts to what they report.

    raw_model: neither compiled nor wrapped, for the mfu and for callbacks
    """

    def __init__(
        self,
        raw_model: Any,
        step: TrainingStep,
        scheduler: LRScheduler,
        evaluator: Evaluator,
        checkpointer: Checkpointer,
        monitor: StabilityMonitor,
        logger: CompositeLogger,
        runtime: Runtime,
        preemption: Preemption,
        callbacks: Sequence[Callback] = (),
        *,
        numbers: LoopNumbers,
    ) -> None:
        self.raw_model = raw_model
        self.step = step
        self.scheduler = scheduler
        self.evaluator = evaluator
        self.checkpointer = checkpointer
        self.monitor = monitor
        self.logger = logger
        self.runtime = runtime
        self.preemption = preemption
        self.callbacks = CallbackList(callbacks)
        self.max_iters = numbers.max_iters
        self.eval_only = numbers.eval_only
        self.numbers = numbers
        self.counters = RunState(numbers.best_metric, numbers.best_mode)
        self.stop_request = StopRequest(preemption, is_alone=runtime.world_size == 1)
        self.report = StepReport(raw_model, step, numbers.sequences_per_iter, numbers.tokens_per_iter)
        self.step_start: State = {}  # this rank's position before the evaluation or update at hand; {} between them

    @property
    def iter_num(self) -> int:
        """The iteration at hand."""
        return self.counters.iter_num

    @property
    def best_val_loss(self) -> float:
        """The lowest validation loss seen."""
        return self.counters.lowest_val_loss

    @saves_in_emergency
    def train(self) -> float:
        """Train until `max_iters`, or until something calls `stop`. Return the lowest validation loss seen."""
        self.begin()
        while True:
            try:
                while not self.should_terminate(self.iter_num):
                    # set the learning rate of this iteration, and draw the first batch if none is waiting
                    self.step.prefetch()
                    lr = self.scheduler.set_lr(self.step.optimizer.param_groups, self.iter_num, self.monitor.lr_scale)

                    # every eval_interval: measure the loss on both splits; save if it is lower, or always
                    if self.should_evaluate(self.iter_num):
                        self.settle()  # wait for the verdict on the last update, which a GPU delivers one update late
                        if self.stop_request.reason:
                            break
                        losses = self.evaluate(lr)
                        if self.eval_only:
                            break
                        self.save_evaluated(losses)
                    if self.checkpointer.schedule.is_due(self.iter_num):
                        self.save_checkpoint()

                    # forward, backward, update
                    self.callbacks.emit("on_step_begin", self)
                    result = self.update()
                    self.callbacks.emit("on_step_end", self, result)

                    # every log_interval: log. Reading the loss waits for the device, so it happens only here
                    seconds = self.report.lap()
                    if self.should_log(self.iter_num):
                        self.logger.log_step(self.report.metrics(self.iter_num, result, seconds))
                    self.counters.iter_num += 1
                self.settle()
                self.save_final()
                break
            except _RolledBack as event:
                log.warning(event)
                self.logger.log_event({"event": "recovery", "history": self.monitor.history})
            except Interrupted:  # a signal ended an evaluation or a batch draw: restore `step_start`, and stop
                self.checkpointer.restore_position(self.step_start)
                self.stop_request.preempt()
        self.end()
        return self.best_val_loss

    def should_evaluate(self, iter_num: int) -> bool:
        """Evaluate every `eval_interval` iterations, but not again after a resume from the checkpoint saved there."""
        return self.eval_only or (iter_num % self.numbers.eval_interval == 0 and iter_num != self.counters.evaluated_at)

    def should_log(self, iter_num: int) -> bool:
        """Log every `log_interval` iterations."""
        return iter_num % self.numbers.log_interval == 0

    def should_terminate(self, iter_num: int) -> bool:
        """Stop after iteration `max_iters`, which is `max_iters + 1` updates, or when something asked for it."""
        return self.stop_request.reason is not None or (iter_num > self.max_iters and not self.eval_only)

    # the parts of a run

    def begin(self) -> None:
        """Keep the state at the start of this process, for a rollback before its first checkpoint."""
        self.checkpointer.begin(self.state_dict())
        self.step_start = self.checkpointer.position()
        self.callbacks.emit("on_train_begin", self)
        self.report.start()

    def evaluate(self, lr: float) -> dict[str, torch.Tensor]:
        """Measure the loss of both splits and log it. Return the losses by split."""
        self.callbacks.emit("on_eval_begin", self)
        self.step_start = self.checkpointer.position()
        measured, self.step_start = self.evaluator.evaluate_splits(), {}
        metrics = self.counters.record_evaluation(measured)
        self.logger.log_eval({"iter": self.iter_num, **metrics, "lr": lr, **self.report.progress(self.iter_num)})
        self.callbacks.emit("on_eval_end", self, self.counters.losses)
        return self.counters.losses

    def save_evaluated(self, losses: dict[str, torch.Tensor]) -> None:
        """Save as nanoGPT does: if the evaluation is better than the last one that saved, or always."""
        self.react(self.monitor.decide_on_evaluation(losses, self.iter_num - 1))
        if self.counters.improves() or self.numbers.always_save_checkpoint:
            self.report_save(self.checkpointer.join())
            previous = self.counters.mark_saved()
            if self.iter_num > 0:
                self.save_checkpoint(link=True)
                if self.checkpointer.failure:
                    self.counters.unmark_saved(previous)

    def update(self) -> StepResult:
        """Make one update, and act on the verdict known by now; on a GPU it is that of the update before."""
        self.step_start = self.checkpointer.position()
        self.step.skip_batches(self.monitor.batches_to_skip(self.iter_num))
        return self.end_update(self.step.execute_step(self.inspect_step))

    def end_update(self, result: StepResult) -> StepResult:
        """Record an update, and act on the verdict. Return its result."""
        self.monitor.remember_step(self.iter_num, self.step.used_batch, self.step_start)
        self.step_start = {}
        self.apply_verdict(self.monitor.verdict())
        if self.numbers.check_every_step and not self.checkpointer.is_finite():
            self.react(self.monitor.decide_on_damage(self.iter_num))
        return result

    def inspect_step(self, loss: torch.Tensor, grad_norm: torch.Tensor, metrics: State) -> torch.Tensor:
        """Have the monitor judge an update before it is made. Return its flag on the device: skip the update."""
        is_preempted, wants_save = self.preemption.requested is not None, self.checkpointer.schedule.wants_save()
        requests = Requests(is_preempted, self.stop_request.is_requested, wants_save)
        return self.monitor.inspect_step(self.iter_num, loss, grad_norm, metrics, requests)

    def settle(self) -> None:
        """Act on the verdict that a GPU has not delivered yet, if any: wait for it. May raise as `react`."""
        self.apply_verdict(self.monitor.wait_for_verdict())

    def apply_verdict(self, verdict: StepVerdict | None) -> None:
        """Do what all ranks agreed on after an update. May raise as `react`."""
        if verdict is not None:
            self.stop_request.agree(verdict.requests.preempt, verdict.requests.stop)
            self.checkpointer.schedule.is_agreed |= verdict.requests.save
            self.react(self.monitor.decide_on(verdict))

    def react(self, decision: Decision) -> None:
        """Roll back or stop if the decision says so: raises _RolledBack, or DivergedError with a diagnosis."""
        if decision.action == ROLL_BACK:
            self.roll_back(decision)
        if decision.action == STOP:
            diagnosis = self.monitor.diagnosis(decision.iter_num)
            raise DivergedError(f"{decision.message}{self.checkpointer.kept}\n{diagnosis}")

    def roll_back(self, decision: Decision) -> None:
        """Restore the last healthy checkpoint, or where this process started. Raises _RolledBack: go on from there."""
        self.checkpointer.is_rolling_back = True
        self.report_save(self.checkpointer.join())
        state, place = self.checkpointer.roll_back()
        self.load_state_dict(state)
        self.step_start = self.checkpointer.position()
        message = self.monitor.record_rollback(decision, self.iter_num, place)
        self.checkpointer.is_rolling_back = False
        raise _RolledBack(message)

    def save_checkpoint(self, link: bool = False) -> None:
        """Write a checkpoint now. link: also as nanoGPT's ckpt.pt, with its line"""
        self.settle()
        if not self.checkpointer.is_finite():
            self.checkpointer.refuse()
            self.react(self.monitor.decide_on_damage(self.iter_num - 1))
            return
        self.report_save(self.checkpointer.join())
        if link:
            self.logger.log_checkpoint(f"saving checkpoint to {self.checkpointer.checkpoints.out_dir}")
        notes = self.counters.manifest_notes(self.monitor.is_healthy, self.max_iters)
        self.monitor.begin_save()
        self.report_save(self.checkpointer.save(self.state_dict(), notes, link=link))

    def save_final(self) -> None:
        """Save the updates since the last checkpoint. Raises SaveError if that fails."""
        self.report_save(self.checkpointer.join())  # if it failed in the background, the state is saved once more
        if self.step.updates > 0 and self.checkpointer.schedule.saved_at != self.iter_num and not self.eval_only:
            self.save_checkpoint()
        self.report_save(self.checkpointer.join())
        self.checkpointer.raise_if_failed()

    def report_save(self, path: Path | None) -> None:
        """Call `on_checkpoint` for a complete checkpoint; tell the monitor of a failed save."""
        if self.checkpointer.failure:
            self.monitor.fail_save()
        elif path is not None:
            self.callbacks.emit("on_checkpoint", self, path)

    def end(self) -> None:
        """Call `on_train_end`. Raises PreemptedError if a signal or the clock stopped the run."""
        self.callbacks.emit("on_train_end", self)
        has_state = self.step.updates > 0 or self.checkpointer.schedule.saved_at is not None
        self.stop_request.raise_if_preempted(self.iter_num if has_state else None, self.checkpointer.resume_command())

    # what others may call

    def stop(self, reason: str) -> None:
        """Ask the loop to end: after this iteration; with several processes one later, on several GPUs up to two."""
        log.info(f"stopping after iteration {self.iter_num}: {reason}")
        self.stop_request.request(reason)

    def save(self) -> None:
        """Ask for a checkpoint: written where `save_interval` writes one, or by the final save (see `Callback`)."""
        self.checkpointer.request_save()

    def state_dict(self) -> State:
        """Return the counters, and the states of the parts that only the trainer has."""
        return {
            **self.counters.state_dict(),
            "recovery": self.monitor.recovery.state_dict(),
            "callbacks": self.callbacks.state_dict(),
            "loggers": self.logger.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore counters, callbacks and loggers; the rollbacks made since stay counted."""
        self.counters.load_state_dict(state)
        self.callbacks.load_state_dict(state.get("callbacks", {}))
        self.logger.load_state_dict(state.get("loggers", {}))

    def restore(self, checkpoint: State, exact: bool, manifest: State | None = None) -> None:
        """Go on from a checkpoint whose weights and optimizer are loaded; exact: with its random state and batch."""
        require_counters(checkpoint)
        with damaged_if_it_fails():
            state, is_exact = self.checkpointer.resume(checkpoint, manifest, exact)
            self.load_state_dict(state)
            if "recovery" in checkpoint:
                self.monitor.recovery.load_state_dict(checkpoint["recovery"])
        if not is_exact:
            self.counters.evaluated_at = None
            if not (exact and checkpoint.get("ranks")):
                self.max_iters = max(self.max_iters, self.iter_num)  # like nanoGPT: a run past its end makes one update
