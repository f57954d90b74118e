"""What may watch a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.checkpoint.class_states import stateful
from core.preemption import Interrupted

if TYPE_CHECKING:
    from core.trainer import Trainer
    from core.training_step import StepResult


class Callback:
    """Base of callbacks: every method is empty, override the ones you need.

    A callback may read

        trainer.iter_num            the iteration; in `on_train_end` one more than the last
        trainer.max_iters           the last iteration
        trainer.best_val_loss       the lowest validation loss seen
        trainer.raw_model           the model, neither compiled nor wrapped
        trainer.step                the training step: its optimizer, and `batch`, which was drawn for the next update
        trainer.scheduler           the learning rate of any iteration
        trainer.monitor             recoveries made (`history`), their factor on the learning rate (`lr_scale`)
        trainer.runtime             rank, world size, device
        trainer.counters.metrics    what the last evaluation measured besides the losses
        trainer.report              seconds of training (`elapsed_s`), tokens of an iteration (`tokens_per_iter`)
        trainer.checkpointer        the run's id (`run_id`), what checkpoints say of it (`notes`), its folder
                                    (`checkpoints.folder`), the command that goes on (`resume_command()`)
        trainer.stop_request        whether a signal or the clock ends the run (`is_preempted`)

    and call

        trainer.logger.log_info(text), trainer.logger.log_event(record)
        trainer.stop(reason)        ends the run after this iteration; with several processes one later, on several GPUs
                                    up to two
        trainer.save()              asks for a checkpoint, written where `save_interval` writes one: after the
                                    evaluation of an iteration and before its `on_step_begin` (called there, one
                                    iteration later; with several processes, too). The final save counts as one; in
                                    `on_train_end` it does nothing
        trainer.preemption.abandonable()   a context for long work such as sampling: a signal ends the work there.
                                    The random state must be as before when the work ends

    It replaces no part of the trainer and draws nothing from torch's global random generator. With several processes
    each rank has its own callbacks; a decision to stop or save must come out the same on all ranks. A callback with
    `state_dict` and `load_state_dict` is saved in every checkpoint, under its class name.

        class Patience(Callback):
            def on_eval_end(self, trainer, losses):
                if losses["val"] > 2 * trainer.best_val_loss:
                    trainer.stop("validation loss has doubled")
    """

    def on_train_begin(self, trainer: Trainer) -> None:
        """Called once, before the first iteration."""

    def on_train_end(self, trainer: Trainer) -> None:
        """Called once, after the last iteration and the final save; not if the run diverged or that save failed."""

    def on_step_begin(self, trainer: Trainer) -> None:
        """Called before each update."""

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        """Called after each update; on a CPU not if it led to a rollback. Reading `result` waits for a GPU."""

    def on_eval_begin(self, trainer: Trainer) -> None:
        """Called before each evaluation."""

    def on_eval_end(self, trainer: Trainer, losses: dict[str, torch.Tensor]) -> None:
        """Called after each evaluation with the mean loss of each split, the same on all ranks."""

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """Called after a checkpoint is safely written to `path`."""


class CallbackList:
    """Several callbacks, called in their order, and the states of those that have one."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self.callbacks = list(callbacks)

    def __iter__(self) -> Iterator[Callback]:
        return iter(self.callbacks)

    def emit(self, event: str, trainer: Trainer, *details: Any) -> None:
        """Call the method `event` of each callback. A signal that interrupts one of them does not end the others."""
        for callback in self.callbacks:
            with suppress(Interrupted):
                getattr(callback, event)(trainer, *details)

    def state_dict(self) -> dict[str, Any]:
        """Return the states by class name."""
        return {name: callback.state_dict() for name, callback in stateful(self.callbacks).items()}

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Restore the callbacks whose state is in `states`."""
        for name, callback in stateful(self.callbacks).items():
            if name in states:
                callback.load_state_dict(states[name])
