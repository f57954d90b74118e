"""The epoch of a run, the mean training loss in it, and the state of training as the C line's callbacks see it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from core.callback import Callback

if TYPE_CHECKING:
    from core.trainer import Trainer
    from core.training_step import StepResult


class _ReadOnDemand:
    """The attribute `loss` of a state whose loss is still on a device: reading it waits for the device, once."""

    def __get__(self, state: Any, owner: type | None = None) -> float:
        if state is None:
            raise AttributeError("loss")  # so that the dataclass sees a field without a default
        state.loss = float(vars(state)["_loss"])
        return float(state.loss)


@dataclass
class TrainingState:
    """What a callback of the C line gets after each update.

    epoch:            number of the epoch, from 0
    global_step:      updates made, this one included
    batch_idx:        number of the update in its epoch, from 0
    total_batches:    updates in this epoch
    loss:             mean training loss of the epoch up to now. Given as a tensor on a GPU, it is read, which waits for
                      the GPU, when a callback reads it
    learning_rate:    of this update
    metrics:          what the last evaluation measured, with `val_loss` and `train_loss`; empty before the first
    fractional_epoch: tokens seen, as a multiple of the training text
    """

    epoch: int
    global_step: int
    batch_idx: int
    total_batches: int
    loss: float | torch.Tensor = _ReadOnDemand()  # type: ignore[assignment]
    learning_rate: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    fractional_epoch: float = 0.0

    def __post_init__(self) -> None:
        loss = vars(self)["loss"]
        if isinstance(loss, torch.Tensor) and loss.device.type == "cpu":
            self.loss = loss.item()
        elif isinstance(loss, torch.Tensor):
            vars(self)["_loss"] = vars(self).pop("loss")


class Place(NamedTuple):
    """Where an iteration is in its epoch: see `TrainingState`."""

    epoch: int
    batch_idx: int
    total_batches: int


class EpochMeter(Callback):
    """Keeps the mean training loss of an epoch, and what the last evaluation measured; nothing waits for the device.

    tokens_per_iter: tokens of an update, of all processes
    train_tokens:    tokens of the training text; None if the data have no size: then the run is one epoch, number 0

    state: after the last update
    """

    def __init__(self, tokens_per_iter: int, train_tokens: int | None = None) -> None:
        self.tokens_per_iter = tokens_per_iter
        self.train_tokens = train_tokens
        self.metrics: dict[str, float] = {}
        self.batches = 0  # of this epoch
        self.mean_loss = torch.tensor(0.0)
        self.state = TrainingState(0, 0, 0, 1, 0.0, 0.0)
        self._began = time.perf_counter()

    def place(self, trainer: Trainer, iter_num: int) -> Place:
        """Return the epoch of an iteration, its number in the epoch, and the number of iterations in the epoch."""
        if self.train_tokens is None:
            last = trainer.max_iters if math.isfinite(trainer.max_iters) else iter_num
            return Place(0, iter_num, int(max(last, iter_num)) + 1)
        epoch = iter_num * self.tokens_per_iter // self.train_tokens
        first, following = self._first_iter(epoch), self._first_iter(epoch + 1)
        return Place(epoch, iter_num - first, following - first)

    def _first_iter(self, epoch: int) -> int:
        """Return the first iteration that begins in an epoch or after it."""
        assert self.train_tokens is not None
        return -(-epoch * self.train_tokens // self.tokens_per_iter)

    def epochs(self, trainer: Trainer) -> int:
        """Return the number of epochs that the run will have begun at its end."""
        last = int(trainer.max_iters) if math.isfinite(trainer.max_iters) else trainer.iter_num
        return self.place(trainer, last).epoch + 1

    @property
    def hours(self) -> float:
        """Hours since training began in this process."""
        return (time.perf_counter() - self._began) / 3600

    def on_train_begin(self, trainer: Trainer) -> None:
        self._began = time.perf_counter()
        self.state = self._state(trainer, trainer.iter_num)

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        loss = result.mean_loss.detach().float()
        if self.place(trainer, trainer.iter_num).batch_idx == 0:
            self.batches = 0
        self.batches += 1
        mean = self.mean_loss.to(loss.device) if self.batches > 1 else loss
        self.mean_loss = mean + (loss - mean) / self.batches
        self.state = self._state(trainer, trainer.iter_num + 1)

    def on_eval_end(self, trainer: Trainer, losses: dict[str, torch.Tensor]) -> None:
        self.metrics = trainer.counters.measured()

    def _state(self, trainer: Trainer, updates: int) -> TrainingState:
        """Return the state after so many updates of the run."""
        share = updates * self.tokens_per_iter / self.train_tokens if self.train_tokens else 0.0
        lr = trainer.step.optimizer.param_groups[0]["lr"]
        place = self.place(trainer, trainer.iter_num)
        return TrainingState(
            place.epoch, updates, place.batch_idx, place.total_batches, self.mean_loss, lr, dict(self.metrics), share
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the mean loss of the epoch at hand, the updates that it is of, and the metrics."""
        return {"mean_loss": self.mean_loss.item(), "batches": self.batches, "metrics": dict(self.metrics)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.mean_loss = torch.tensor(float(state["mean_loss"]))
        self.batches, self.metrics = int(state["batches"]), dict(state["metrics"])
