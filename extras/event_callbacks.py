"""Callbacks of the C line, and other objects with event methods, as a Callback."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from core.callback import Callback
from core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from core.trainer import Trainer
    from core.training_step import StepResult
    from extras.epoch_meter import EpochMeter

# by event: what its method is given by position, whatever it calls that
OUR_EVENTS: dict[str, tuple[str, ...]] = {
    "on_train_begin": ("trainer",),
    "on_train_end": ("trainer",),
    "on_step_begin": ("trainer",),
    "on_step_end": ("trainer", "result"),
    "on_eval_begin": ("trainer",),
    "on_eval_end": ("trainer", "losses"),
    "on_checkpoint": ("trainer", "path"),
}
EPOCH_EVENTS: dict[str, tuple[str, ...]] = {
    "on_epoch_begin": ("epoch",),
    "on_epoch_end": ("epoch",),
    "on_batch_begin": ("batch_idx",),
    "on_batch_end": ("state",),
    "on_validation_begin": (),
    "on_validation_end": ("metrics",),
}
EVENTS = {**OUR_EVENTS, **EPOCH_EVENTS}
DETAILS = {  # known only where they come from
    "on_step_end": ("result",),
    "on_batch_end": ("result",),
    "on_eval_end": ("losses",),
    "on_validation_end": ("losses",),
    "on_checkpoint": ("path",),
}
IN_KWARGS = {  # what the C line's trainer gave to `**kwargs`
    "on_train_begin": ("num_epochs", "batch_size", "model_info"),
    "on_train_end": ("duration_hours", "final_metrics"),
    "on_epoch_end": ("total_epochs", "loss", "learning_rate"),
}
# what a method of any event may take by name
VALUES: dict[str, Callable[[EpochMeter, Trainer], Any]] = {
    "trainer": lambda meter, trainer: trainer,
    "model": lambda meter, trainer: trainer.raw_model,
    "state": lambda meter, trainer: meter.state,
    "metrics": lambda meter, trainer: dict(meter.metrics),
    "epoch": lambda meter, trainer: meter.place(trainer, trainer.iter_num).epoch,
    "batch_idx": lambda meter, trainer: meter.place(trainer, trainer.iter_num).batch_idx,
    "loss": lambda meter, trainer: meter.mean_loss.item(),
    "learning_rate": lambda meter, trainer: trainer.step.optimizer.param_groups[0]["lr"],
    "num_epochs": lambda meter, trainer: meter.epochs(trainer),
    "total_epochs": lambda meter, trainer: meter.epochs(trainer),
    "batch_size": lambda meter, trainer: trainer.numbers.sequences_per_iter // trainer.step.gradient_accumulation_steps,
    "model_info": lambda meter, trainer: {"model_type": type(trainer.raw_model).__name__},
    "duration_hours": lambda meter, trainer: meter.hours,
    "final_metrics": lambda meter, trainer: {"total_steps": trainer.iter_num, **meter.metrics},
}
STOPS = ("should_stop_training", "stop_training", "should_stop")


class Call(NamedTuple):
    """What a method takes: names of values by position, and by keyword the name of the value for each parameter."""

    by_position: list[str]
    by_keyword: dict[str, str]


def has_events(listener: Any) -> bool:
    """Return whether an object or class is a Callback or has a method of an event, ours or the C line's."""
    is_ours = isinstance(listener, Callback) or (isinstance(listener, type) and issubclass(listener, Callback))
    return is_ours or any(callable(getattr(listener, event, None)) for event in EVENTS)


def needs_adapter(listener: Any) -> bool:
    """Return whether an object is no Callback, or has events that a Callback lacks."""
    return not isinstance(listener, Callback) or any(hasattr(listener, event) for event in EPOCH_EVENTS)


def find_calls(listener: Any) -> dict[str, Call]:
    """Return what each event method of an object takes. ConfigError for a parameter that nothing can be given to."""
    return {event: _call(listener, event) for event in EVENTS if callable(getattr(listener, event, None))}


def _call(listener: Any, event: str) -> Call:
    given = {*VALUES, *DETAILS.get(event, ())}
    try:
        parameters = inspect.signature(getattr(listener, event)).parameters.values()
    except (TypeError, ValueError):  # it is built in
        return Call(list(EVENTS[event]), {})
    unnamed = [value for value in EVENTS[event] if value not in {parameter.name for parameter in parameters}]
    call, has_gap = Call([], {}), False
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            call.by_position.extend([] if has_gap else unnamed)
        elif parameter.kind is parameter.VAR_KEYWORD:
            taken = {*call.by_position, *call.by_keyword}
            call.by_keyword.update({name: name for name in IN_KWARGS.get(event, ()) if name not in taken})
        elif (value := _value_for(parameter, given, unnamed)) is None:
            has_gap = True
            if parameter.default is parameter.empty:
                raise ConfigError(
                    f"{type(listener).__name__}.{event} takes {parameter.name}, which nothing is known for: wanted "
                    f"names among {', '.join(sorted(given))}; give {parameter.name} a default value, or remove it"
                )
        elif parameter.kind is parameter.KEYWORD_ONLY or has_gap:
            call.by_keyword[parameter.name] = value
        else:
            call.by_position.append(value)
    return call


def _value_for(parameter: inspect.Parameter, given: set[str], unnamed: list[str]) -> str | None:
    """Return the name of the value for a parameter: that of its name, or the next one of `unnamed`, which it takes."""
    if parameter.name in given:
        return parameter.name
    is_other = parameter.default is not parameter.empty and unnamed[:1] == [
        "trainer"
    ]  # on_train_begin(self, logs=None)
    return None if is_other or not unnamed or parameter.kind is parameter.KEYWORD_ONLY else unnamed.pop(0)


class EventCallback(Callback):
    """Calls the event methods of an object, with the arguments that each takes; it may lack any of them.

    listener: a callback of the C line, or another object with methods of its events or ours
    meter:    knows epochs and losses; it is called before this callback

    An epoch ends after its last update, or with the run. `on_epoch_begin` comes again for an epoch in which a process
    resumes or to which a rollback returns. The run stops, on all ranks, when the object has a method
    `should_stop_training` or an attribute `stop_training` or `should_stop` that is true after an event.

    state_name: name of the object's class, under which checkpoints keep its state if it has one
    """

    def __init__(self, listener: Any, meter: EpochMeter) -> None:
        self.listener = listener
        self.meter = meter
        self.calls = find_calls(listener)
        self.epoch: int | None = None  # that has begun and not ended
        self.has_asked_to_stop = False
        self.state_name = type(listener).__name__
        if hasattr(listener, "state_dict") and hasattr(listener, "load_state_dict"):
            self.state_dict, self.load_state_dict = listener.state_dict, listener.load_state_dict

    def on_train_begin(self, trainer: Trainer) -> None:
        self._call("on_train_begin", trainer)

    def on_step_begin(self, trainer: Trainer) -> None:
        self._call("on_step_begin", trainer)
        epoch = self.meter.place(trainer, trainer.iter_num).epoch
        if epoch != self.epoch:
            self.epoch = epoch
            self._call("on_epoch_begin", trainer)
        self._call("on_batch_begin", trainer)

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        self._call("on_step_end", trainer, result=result)
        self._call("on_batch_end", trainer, result=result)
        if self.meter.place(trainer, trainer.iter_num + 1).epoch != self.epoch:
            self._end_epoch(trainer)

    def on_eval_begin(self, trainer: Trainer) -> None:
        self._call("on_eval_begin", trainer)
        self._call("on_validation_begin", trainer)

    def on_eval_end(self, trainer: Trainer, losses: dict[str, torch.Tensor]) -> None:
        self._call("on_eval_end", trainer, losses=losses)
        self._call("on_validation_end", trainer, losses=losses)

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        self._call("on_checkpoint", trainer, path=path)

    def on_train_end(self, trainer: Trainer) -> None:
        self.has_asked_to_stop = True  # too late
        self._end_epoch(trainer)
        self._call("on_train_end", trainer)

    def _end_epoch(self, trainer: Trainer) -> None:
        if self.epoch is not None:
            self._call("on_epoch_end", trainer, epoch=self.epoch)
            self.epoch = None

    def _call(self, event: str, trainer: Trainer, **details: Any) -> None:
        """Call the object's method of an event, if it has one; then stop the run if the object asks for it."""
        if call := self.calls.get(event):

            def value(name: str) -> Any:
                return details[name] if name in details else VALUES[name](self.meter, trainer)

            by_keyword = {parameter: value(name) for parameter, name in call.by_keyword.items()}
            getattr(self.listener, event)(*map(value, call.by_position), **by_keyword)
        if not self.has_asked_to_stop and (wish := self._wish_to_stop()):
            self.has_asked_to_stop = True
            trainer.stop(f"{self.state_name}.{wish} is true")

    def _wish_to_stop(self) -> str | None:
        """Return the name of what asks for the end of the run; None if nothing does."""
        for name in STOPS:
            wish = getattr(self.listener, name, False)
            if callable(wish):  # `stop_training` may be a method that others call in order to stop
                wish = wish() if name == "should_stop_training" else False
            if wish:
                return name
        return None
