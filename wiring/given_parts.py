"""Parts of a run that are handed in from Python, in place of those that the options make."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from core import (
    Callback,
    ConfigError,
    LoadedModel,
    LRScheduler,
    Objective,
    Output,
    Runtime,
    SaveError,
)
from core.batch import Batch
from core.checkpoint.checkpointer import MakeModel
from core.evaluator import MeasureSplit
from core.model_initializer import SHAPE_ARGS, load_exactly
from extras.hugging_face.c_line_checkpoint import fit_moments
from extras.hugging_face.loading import load_model
from wiring.callbacks_file import user_callbacks

if TYPE_CHECKING:
    from config.options import Options
    from core.trainer import Trainer
    from wiring.start import RunStart

log = logging.getLogger("coregpt")
FORWARD = "forward(inputs, targets=None) that returns (logits, loss)"


class GivenParts(NamedTuple):
    """What is handed in; None: as the options say.

    data:      `get_batch(split) -> batch`; may have `vocab_size`, `fingerprint()`, and a state
    objective: an Objective, or `objective(model, batch, train) -> loss`
    model:     an nn.Module whose `forward(inputs, targets=None)` returns logits and loss, either may be None
    tokenizer: `encode`, `decode`, `vocab_size`; with `meta()` checkpoints keep it
    optimizer: a torch optimizer of the model's parameters, or `optimizer(model)` that makes one
    scheduler: an LRScheduler, or `scheduler(iter_num) -> learning rate`
    metrics:   `metrics(model, split) -> {name: value}`, for each split of an evaluation
    loggers:   further loggers
    callbacks: objects with event methods
    """

    data: Any = None
    objective: Any = None
    model: Any = None
    tokenizer: Any = None
    optimizer: Any = None
    scheduler: Any = None
    metrics: MeasureSplit | None = None
    loggers: Sequence[Any] = ()
    callbacks: Sequence[Any] = ()

    def check(self, options: Options) -> None:
        """Raise ConfigError for a part that lacks what a run needs of it, before anything is made or moved."""
        if self.data is not None and not callable(getattr(self.data, "get_batch", None)):
            raise ConfigError(f"data: got a {_kind(self.data)}, wanted an object with get_batch(split) -> batch")
        if hasattr(self.data, "state_dict") and not hasattr(self.data, "load_state_dict"):
            raise ConfigError(
                f"data: the {_kind(self.data)} has state_dict but no load_state_dict, wanted both or none"
            )
        if self.model is not None:
            _check_model(self.model)
        for name in ("encode", "decode", "vocab_size") if self.tokenizer is not None else ():
            if not hasattr(self.tokenizer, name):
                raise ConfigError(
                    f"tokenizer: the {_kind(self.tokenizer)} has no {name}, wanted encode(text), decode(ids) and "
                    "vocab_size"
                )
        for name, wanted in (
            ("objective", "an Objective or objective(model, batch, train) -> loss"),
            ("scheduler", "an LRScheduler or scheduler(iter_num) -> learning rate"),
            ("metrics", "metrics(model, split) -> {name: value}"),
        ):
            part = getattr(self, name)
            is_scheduler = name == "scheduler" and isinstance(part, LRScheduler)
            if part is not None and not (callable(part) or is_scheduler):
                raise ConfigError(f"{name}: got a {_kind(part)}, wanted {wanted}")
        optimizer = self.optimizer
        makes_one = callable(optimizer) and not isinstance(optimizer, type)
        if not (optimizer is None or isinstance(optimizer, torch.optim.Optimizer) or makes_one):
            raise ConfigError(f"optimizer: got a {_kind(optimizer)}, wanted a torch optimizer or optimizer(model)")
        if not isinstance(self.loggers, Sequence):
            raise ConfigError(f"loggers: got {_kind(self.loggers)} alone, wanted a list of them: loggers=[...]")
        for logger in self.loggers:
            if not callable(getattr(logger, "log_step", None)):
                raise ConfigError(f"loggers: the {_kind(logger)} has no log_step(metrics), wanted a Logger")

        if isinstance(optimizer, torch.optim.Optimizer) and self.model is not None:
            _require_own(optimizer, self.model)
        if conflicts := list(self.conflicts(options)):
            raise ConfigError("\n".join(conflicts))

    def conflicts(self, options: Options) -> Iterator[str]:
        """Yield a message for every option that a part which is handed in leaves without its effect."""
        if self.tokenizer is not None and self.data is None:
            yield f"tokenizer: data are not handed in, and those of {options.dataset} have their own: remove it"
        if self.data is not None and self.objective is None and options.training_type != "language_model":
            yield f"training_type={options.training_type}: with data that are handed in, hand in an objective, too"
        if self.data is not None and self.objective is None and options.uncertainty_factor:
            yield "uncertainty_factor needs a data set: remove it, or do not hand in data"
        if self.optimizer is not None and options.optimizer_type != "adamw":
            yield f"optimizer_type={options.optimizer_type}: an optimizer is handed in, too: remove one of them"
        if self.model is not None:
            for name in options.changed("freeze_transformer", "trainable", "init_from_checkpoint"):
                yield f"{name} changes models that the options make: remove it, and change the model beforehand"

    def make_objective(self) -> Objective:
        """Return the objective; a plain function gets the methods of one."""
        return self.objective if isinstance(self.objective, Objective) else _Plain(self.objective)

    def make_scheduler(self) -> LRScheduler | None:
        """Return the scheduler; a plain function gets the methods of one."""
        given = self.scheduler
        return given if given is None or isinstance(given, LRScheduler) else _Rate(given)

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer. Raises ConfigError unless its parameters are the model's."""
        optimizer = self.optimizer if isinstance(self.optimizer, torch.optim.Optimizer) else self.optimizer(model)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(f"optimizer(model) returns a {_kind(optimizer)}, wanted a torch optimizer")
        _require_own(optimizer, model)
        return optimizer


def given_callbacks(options: Options, callbacks: Sequence[Any]) -> GivenParts:
    """Return the user's callbacks as the only parts that are handed in: those of `callbacks_file`, then these."""
    return GivenParts(callbacks=user_callbacks(options, callbacks))


NOTHING_GIVEN = GivenParts()  # the options make every part


class GivenData:
    """A data source that was handed in, with what a run asks of one besides batches."""

    meta_path = Path("data handed in from Python")
    paths: Mapping[str, Path] = {}

    def __init__(self, data: Any, tokenizer: Any) -> None:
        self.data = data
        self.meta = tokenizer.meta() if hasattr(tokenizer, "meta") else None
        self.vocab_size = getattr(data, "vocab_size", None) or getattr(tokenizer, "vocab_size", None)
        if tokenizer is not None and self.meta is None:
            log.warning("tokenizer: it has no meta(), so checkpoints do not hold it; give it to coregpt.load again")

    def get_batch(self, split: str) -> Batch:
        """Return a batch of the user's."""
        return self.data.get_batch(split)

    def fingerprint(self) -> str:
        """Return what the data say of themselves, by default the name of their class."""
        return str(self.data.fingerprint()) if hasattr(self.data, "fingerprint") else _kind(self.data)

    def check_vocab(self, vocab_size: int) -> None:
        """Leave the ids to the model: only the user knows what a batch holds."""


def ready_model(given: nn.Module, runtime: Runtime, start: RunStart) -> MakeModel:
    """Return a function that hands over the model, with the weights of the checkpoint that the run resumes.

    It cannot be made again: `FirstSave` writes a checkpoint that a rollback finds.
    """
    made: list[nn.Module] = []

    def make() -> tuple[LoadedModel, dict[str, Any] | None]:
        if made:
            raise SaveError("the model was handed in from Python, and there is no checkpoint to roll back to")
        runtime.seed_all()
        checkpoint = start.read_checkpoint()
        if checkpoint is not None and start.found and start.is_of_c_line:
            weights = load_model(str(start.found.path), torch.device("cpu"), "sdpa", None).model.state_dict()
            load_exactly(given, weights, is_ours=False)
            checkpoint["optimizer"] = fit_moments(checkpoint["optimizer"], given, start.found.path)
        elif checkpoint is not None:
            load_exactly(given, checkpoint["model"])
        made.append(given.to(runtime.device))
        config = getattr(given, "config", None)
        args = {name: getattr(config, name) for name in (*SHAPE_ARGS, "dropout") if hasattr(config, name)}
        return LoadedModel(made[0], args), checkpoint

    return make


class FirstSave(Callback):
    """Saves a run before its first update: a model that was handed in cannot be made again by a rollback."""

    def on_train_begin(self, trainer: Trainer) -> None:
        if trainer.iter_num == 0:
            trainer.checkpointer.schedule.is_agreed = True  # on every rank at once; `save` would take an iteration


class _Plain(Objective):
    """A function `loss(model, batch, train)` as an objective."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        self.loss = loss

    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        found = self.loss(model, batch, train)
        return found if isinstance(found, Output) else Output(found, {})


class _Rate(LRScheduler):
    """A function `rate(iter_num)` as a scheduler."""

    def __init__(self, rate: Callable[[int], float]) -> None:
        self.rate = rate

    def get_lr(self, iter_num: int) -> float:
        return float(self.rate(iter_num))


def _require_own(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    ours = {id(parameter) for parameter in model.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if foreign := sum(id(parameter) not in ours for parameter in held):
        raise ConfigError(
            f"optimizer: {foreign} of its {len(held)} tensors are no parameters of the model: make it of "
            "model.parameters(), or hand in a function optimizer(model)"
        )


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: got a {_kind(model)}, wanted an nn.Module with {FORWARD}")
    try:
        inspect.signature(model.forward).bind(None, None)
    except TypeError:
        raise ConfigError(
            f"model: the {_kind(model)}'s forward takes {inspect.signature(model.forward)}, wanted {FORWARD}"
        ) from None
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"model: the {_kind(model)} has no parameter that can be trained")


def _kind(part: Any) -> str:
    return type(part).__name__
