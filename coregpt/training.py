"""Training from Python: any part of a run may be handed in, the options make the others."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import core
import train as program
from config.options import Options
from coregpt.arguments import read_arguments
from wiring import GivenParts, runtime_settings, user_callbacks
from wiring.given_parts import FirstSave
from wiring.run_options import read_options, with_data_set


class Result(NamedTuple):
    """What a run has come to.

    best_val_loss: the lowest validation loss
    out_dir:       the folder of the run, with its checkpoints
    model:         the trained model, neither compiled nor wrapped; None if a request to stop came before it was made
    stopped:       why the run ended early, such as an interrupt or a callback; None for a run that has finished
    """

    best_val_loss: float
    out_dir: str
    model: Any
    stopped: str | None

    def __repr__(self) -> str:
        return f"Result(best_val_loss={self.best_val_loss:.4f}, out_dir={self.out_dir!r}, stopped={self.stopped!r})"


def options(*arguments: str, **values: Any) -> Options:
    """Return options: those of presets, config files and flags as on the command line, then `values`.

        coregpt.options("quickstart", "--batch_size=8", max_iters=100)

    Raises ConfigError, which lists all mistakes.
    """
    return read_options(read_arguments("train", arguments), values)


def train(
    options: Options | Mapping[str, Any] | Sequence[str] | str = (),
    *,
    data: Any = None,
    objective: Any = None,
    model: Any = None,
    tokenizer: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    metrics: Any = None,
    loggers: Sequence[Any] = (),
    callbacks: Sequence[Any] = (),
    **values: Any,
) -> Result:
    """Train, and return the best loss, the folder and the model. `GivenParts` says what each part must be able to do.

    options: Options; or a preset, or the words of a command line, or values by name
    values:  further options by name

        coregpt.train("quickstart", max_iters=100)
        coregpt.train(["quickstart", "--max_iters=100"], callbacks=[coregpt.EarlyStopping(patience=3)])
        coregpt.train({"out_dir": "out", "max_iters": 100}, data=mine, model=net, objective=my_loss)

    An interrupt or another request to stop ends the run with its state saved, and this function returns. Raises
    ConfigError, DataError, CheckpointError or DivergedError, whose text says what to do.
    """
    given_options = _options(options, values)
    given = GivenParts(data, objective, model, tokenizer, optimizer, scheduler, metrics, loggers)
    given.check(given_options)
    first = [FirstSave()] if model is not None else []
    given = given._replace(callbacks=[*first, *user_callbacks(given_options, callbacks)])
    model, stopped, best = None, None, 1e9
    with (
        core.Preemption(given_options.time_limit) as preemption,
        core.Runtime(**runtime_settings(given_options, preemption)) as runtime,
    ):
        try:
            trainer = program.build(given_options, runtime, preemption, given)
            model = trainer.raw_model
            if any(part is not None for part in (data, objective, given.model, optimizer, scheduler)):
                trainer.checkpointer.go_on = "coregpt.train with the same parts, init_from='resume' and this out_dir"
            best = trainer.train()
            stopped = trainer.stop_request.reason
        except core.PreemptedError as error:
            stopped = str(error)
            best = trainer.best_val_loss if model is not None else best
        trainer = None  # type: ignore[assignment]  # a wrapped model must not outlive its process group
    return Result(best, given_options.out_dir, model, stopped)


def _options(given: Options | Mapping[str, Any] | Sequence[str] | str, values: Mapping[str, Any]) -> Options:
    if isinstance(given, Options):
        return with_data_set(given.replace(**values) if values else given)
    if isinstance(given, Mapping):
        return read_options([], {**given, **values})
    return options(*([given] if isinstance(given, str) else given), **values)
