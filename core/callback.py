"""What may watch a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.preemption import Interrupted

if TYPE_CHECKING:
    from core.trainer import Trainer
    from core.training_step import StepResult


class Callback:
    """Base of callbacks: every method is empty, override the ones you need.

    The contract: read the trainer, log through `trainer.logger`, call `trainer.stop(reason)` or `trainer.save()`;
    do not replace its parts or draw from torch's global random generator. Under several processes each rank has its
    own; a decision to stop must come out the same on all of them. One with `state_dict` and `load_state_dict` is
    saved in every checkpoint, under its class name. Long work, such as sampling, belongs inside
    `with trainer.preemption.abandonable():`, where a signal drops it; what it draws at random, it puts back.

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


class CallbackList:
    """Several callbacks, called in their order, and the states of those that have one."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self.callbacks = list(callbacks)

    def __iter__(self) -> Iterator[Callback]:
        return iter(self.callbacks)

    def emit(self, event: str, trainer: Trainer, *details: Any) -> None:
        """Call the method of this name of each of them; one that was interrupted by a signal has had its turn."""
        for callback in self.callbacks:
            with suppress(Interrupted):
                getattr(callback, event)(trainer, *details)

    def state_dict(self) -> dict[str, Any]:
        """Return the states by class name; of several of one class, the later ones are numbered."""
        return {name: callback.state_dict() for name, callback in self._stateful()}

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Hand each of them its state, if it is there."""
        for name, callback in self._stateful():
            if name in states:
                callback.load_state_dict(states[name])

    def _stateful(self) -> list[tuple[str, Any]]:
        found: dict[str, Any] = {}
        for callback in self.callbacks:
            if hasattr(callback, "state_dict"):
                name = type(callback).__name__
                count = sum(type(other).__name__ == name for other in found.values())
                found[f"{name}-{count + 1}" if count else name] = callback
        return list(found.items())
