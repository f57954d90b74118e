"""The exponential moving average of the weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from core.callback import Callback
from core.checkpoint.format import handle_state_dict_prefixes
from core.errors import ConfigError
from core.files import reason, write_atomically

if TYPE_CHECKING:
    from core.trainer import Trainer
    from core.training_step import StepResult

log = logging.getLogger("coregpt")
FILE = "ema.pt"


class EMA(Callback):
    """Averages the weights over the updates: `average = decay * average + (1 - decay) * weights`, in float32.

    decay:   from 0 to below 1; the average covers about the last 1 / (1 - decay) updates
    warm_up: begin with a lower decay, min(decay, (1 + n) / (10 + n)) at the n-th update from 0, so that the initial
             weights are forgotten sooner

    Training does not change. The average begins with the weights before the first update, is saved in checkpoints, and
    follows a resume and a rollback; an update that was skipped counts as one that changed nothing. Buffers are those of
    the model. Every process keeps an average of the complete weights, 4 bytes for each.

    At the end of training, or when the run is stopped, the average is written to `ema.pt` in out_dir, a checkpoint with
    nanoGPT's keys: `sample.py --checkpoint=ema.pt`. While it trains:

        with ema.applied(trainer.raw_model):
            ...  # evaluate or sample with the average
    """

    def __init__(self, decay: float = 0.999, warm_up: bool = False) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"EMA(decay={decay!r}): wanted a number from 0 to below 1, such as 0.999")
        self.decay = decay
        self.warm_up = warm_up
        self.updates = 0  # in the average
        self.next_iter = 0  # the iteration whose update the average takes next
        self.averages: dict[str, torch.Tensor] = {}  # by the name of the parameter, float32
        self._weights: list[torch.Tensor] = []  # what they are averages of; empty before the start and after a restore

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards its own again, to the bit.

        model: the model that is trained, wrapped or not
        """
        weights = handle_state_dict_prefixes(dict(model.named_parameters()))
        own = {name: weights[name].detach().clone() for name in self.averages}
        try:
            _copy(self.averages, weights)
            yield
        finally:
            _copy(own, weights)

    def on_train_begin(self, trainer: Trainer) -> None:
        self._start(trainer)

    def on_step_begin(self, trainer: Trainer) -> None:
        """Start, or after a rollback go on from the average of the checkpoint."""
        if not self._weights:
            self._start(trainer)

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        self._add(trainer.iter_num)

    def _start(self, trainer: Trainer) -> None:
        """Follow the weights of the model: begin with them, or go on from a restored average."""
        weights = {
            name: weight.detach() for name, weight in trainer.raw_model.named_parameters() if weight.is_floating_point()
        }
        self._weights = list(weights.values())
        shapes = {name: weight.shape for name, weight in weights.items()}
        if self.averages and {name: average.shape for name, average in self.averages.items()} != shapes:
            log.warning("EMA: the average in the checkpoint is of other weights: it begins anew with the present ones")
            self.averages = {}
        if not self.averages:
            self.averages = {name: weight.float().clone() for name, weight in weights.items()}
            self.updates, self.next_iter = 0, trainer.iter_num
            return
        self.averages = {name: self.averages[name].to(weight.device) for name, weight in weights.items()}
        if self.next_iter == trainer.iter_num - 1:  # an error ended the run after that update, before `on_step_end`
            self._add(self.next_iter)

    @torch.no_grad()
    def _add(self, iter_num: int) -> None:
        """Take the weights after the update of an iteration into the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warm_up else self.decay
        weights = [weight.float() for weight in self._weights]
        get_ema_multi_avg_fn(decay)(  # type: ignore[no-untyped-call]
            list(self.averages.values()), weights, self.updates
        )
        self.updates, self.next_iter = self.updates + 1, iter_num + 1

    def on_train_end(self, trainer: Trainer) -> None:
        """Write the average to `ema.pt` on rank 0; a disk that fails is reported, and the run ends as it would."""
        if trainer.eval_only or not trainer.runtime.is_master or not self.updates:
            return
        notes = trainer.checkpointer.notes
        checkpoint = {
            "model": self._model_state(trainer.raw_model),
            "model_args": notes.model_args,
            "iter_num": trainer.iter_num,
            "best_val_loss": trainer.counters.saved_val_loss,
            "config": notes.config,
            "tokenizer": notes.tokenizer,
        }
        path = Path(trainer.checkpointer.checkpoints.folder, FILE)
        try:
            write_atomically(path, partial(torch.save, checkpoint))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as the latter
            log.warning(
                f"{path} could not be written ({reason(error)}): the average is in the last checkpoint, and a resume "
                "of the run with the same callback writes it"
            )
        else:
            log.info(f"{path}: the average of the weights over {self.updates} updates")

    def _model_state(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Return the model's state dict with averaged weights; tied weights share one tensor."""
        averages = {
            id(weight): self.averages[name].to(weight.dtype)
            for name, weight in model.named_parameters()
            if name in self.averages
        }
        names = {name: averages.get(id(weight)) for name, weight in model.named_parameters(remove_duplicate=False)}
        state = model.state_dict()
        return {name: tensor if names.get(name) is None else names[name] for name, tensor in state.items()}  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        """Return the average, the number of updates in it, and the iteration whose update it takes next."""
        return {"averages": dict(self.averages), "updates": self.updates, "next_iter": self.next_iter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.averages = {name: average.detach().clone() for name, average in state["averages"].items()}
        self.updates, self.next_iter = state["updates"], state["next_iter"]
        self._weights = []


@torch.no_grad()
def _copy(source: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> None:
    for name, tensor in source.items():
        target[name].copy_(tensor)
