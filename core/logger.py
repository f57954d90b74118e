"""Where a run reports to: the console, a file of JSON lines, Weights & Biases, or several at once."""

import inspect
import json
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

log = logging.getLogger("coregpt")
Metrics = dict[str, Any]
BLOCK = 2**16  # bytes read at a time


class Logger(ABC):
    """Takes a run's reports. The seam for another place to send them to.

    log_step: iter, loss, lr, time_ms, mfu (percent), grad_norm where known
    log_eval: iter, train/loss, val/loss, lr, mfu (percent)

    One whose reports must neither be lost nor doubled by a resume has a `state_dict()` of plain values, saved with
    every checkpoint; its `load_state_dict(state)`, if it has one, is called when the run goes on from there.
    """

    @abstractmethod
    def log_step(self, metrics: Metrics) -> None:
        """Report an update, every log_interval iterations."""

    @abstractmethod
    def log_eval(self, metrics: Metrics) -> None:
        """Report an evaluation."""

    def log_info(self, text: str) -> None:  # noqa: B027  (may stay empty)
        """Report a line about the run as a whole."""

    def log_checkpoint(self, text: str) -> None:  # noqa: B027  (may stay empty)
        """Report that a checkpoint is being written."""

    def log_event(self, record: Metrics) -> None:  # noqa: B027  (may stay empty)
        """Report something that happened to the run: `event` names it, the rest of the record is about it."""

    def close(self) -> None:  # noqa: B027  (may stay empty)
        """Send or write what is still on its way."""


class ConsoleLogger(Logger):
    """Prints nanoGPT's lines to stdout, byte for byte."""

    def log_step(self, metrics: Metrics) -> None:
        """Print loss, time and model flops utilisation of an update."""
        print("iter {iter}: loss {loss:.4f}, time {time_ms:.2f}ms, mfu {mfu:.2f}%".format(**metrics), flush=True)

    def log_eval(self, metrics: Metrics) -> None:
        """Print both losses of an evaluation."""
        losses = f"train loss {metrics['train/loss']:.4f}, val loss {metrics['val/loss']:.4f}"
        print(f"step {metrics['iter']}: {losses}", flush=True)

    def log_info(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    def log_checkpoint(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)


class JsonlLogger(Logger):
    """Appends one JSON object per report to a file; numbers that are not finite become null.

    The file consists of whole lines: one that was cut off in the middle, by a full disk or a kill, is taken out before
    the next is written. A file that was removed or replaced in mid-run is made again or appended to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file: FileIO | None = None
        self.size = 0  # bytes of the open file, all of them whole lines

    def log_step(self, metrics: Metrics) -> None:
        """Write an update."""
        self._write({"event": "step", **metrics})

    def log_eval(self, metrics: Metrics) -> None:
        """Write an evaluation."""
        self._write({"event": "eval", **metrics})

    def log_checkpoint(self, text: str) -> None:
        """Write that a checkpoint is being made."""
        self._write({"event": "checkpoint", "text": text})

    def log_event(self, record: Metrics) -> None:
        """Write what happened to the run."""
        self._write({"event": record["event"], **record})

    def state_dict(self) -> dict[str, int]:
        """Return the bytes written so far: what was reported up to now, of this run and those it continues."""
        if not self.path.exists():
            return {"offset": 0}
        os.fsync(self._current().fileno())  # a checkpoint counts on these lines
        return {"offset": self.size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Cut off what was reported after `state_dict`: the run reports it again."""
        offset, size = state["offset"], self.state_dict()["offset"]
        if size < offset:
            log.info(f"{self.path} has {size} bytes, had {offset} when the checkpoint was saved: lines are missing")
        elif size > offset:
            self._current().truncate(offset)

    def close(self) -> None:
        """Close the file."""
        if self.file:
            self.file.close()
        self.file = None

    def _write(self, record: Metrics) -> None:
        line = json.dumps(_plain(record)).encode() + b"\n"
        file, rest = self._current(), memoryview(line)
        try:
            while rest:  # a disk that is nearly full takes a part
                rest = rest[file.write(rest) :]
        except BaseException:
            with suppress(OSError):  # else before the next line is written
                file.truncate(self.size)
            raise
        self.size += len(line)

    def _current(self) -> FileIO:
        """Return the file, open and ending in a whole line, whatever happened to it or its folder meanwhile."""
        if self.file is None or not _is_unchanged(self.file, self.path, self.size):
            self.close()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "a+b", buffering=0)  # noqa: SIM115  (closed in `close`)
            self.size = _bytes_of_whole_lines(self.file)
            self.file.truncate(self.size)
        return self.file


class WandBLogger(Logger):
    """Sends evaluations to Weights & Biases under nanoGPT's keys; without key or network it works offline.

    An evaluation takes along what the loss modifiers reported last. Of events it sends the numbers.

    step_interval: send every n-th iteration's step as well, of those that are logged; 0 sends evaluations only
    also:          second names, under which values are sent as well
    saved:         the `state_dict` of a run to go on with, under the same id. What the server was sent after that
                   state was saved comes again, with the same values, and is not sent twice
    Raises ImportError where the package is missing.
    """

    def __init__(
        self,
        project: str | None,
        run_name: str | None,
        config: dict[str, Any],
        out_dir: str | Path,
        step_interval: int = 0,
        saved: dict[str, Any] | None = None,
        also: Mapping[str, str] | None = None,
    ) -> None:
        import wandb

        self.step_interval = step_interval
        self.also = also or {}
        self.modifiers: Metrics = {}  # what they reported last

        settings: dict[str, Any] = dict(project=project, name=run_name, config=config, dir=str(out_dir))
        if saved:
            settings |= dict(id=saved["run_id"], resume="allow")
        wished: Any = os.environ.get("WANDB_MODE")
        try:
            if wished is None and not _has_key(wandb):
                raise wandb.errors.UsageError("no API key")
            self.run = wandb.init(**settings, mode=wished, settings=wandb.Settings(init_timeout=20, silent=True))
        except Exception as error:
            log.info(f"wandb: {error}; logging offline to {out_dir}/wandb (send it later with `wandb sync`)")
            self.run = wandb.init(**settings, mode="offline", settings=wandb.Settings(silent=True))
        self.received: int = self.run.starting_step  # records of the run that the server has; offline 0
        self.reported: int = saved["step"] if saved else self.received  # records of the run so far

    def log_step(self, metrics: Metrics) -> None:
        """Send an update, if its turn has come."""
        self.modifiers = {name: value for name, value in metrics.items() if name.startswith("loss_modifiers/")}
        if self.step_interval and metrics["iter"] % self.step_interval == 0:
            self._send(metrics)

    def log_eval(self, metrics: Metrics) -> None:
        """Send an evaluation."""
        self._send({**metrics, **self.modifiers})

    def log_event(self, record: Metrics) -> None:
        """Send the numbers of what happened, if there are any; when, goes under `<event>_iteration` as well."""
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        if numbers:
            self._send({**numbers, f"{record['event']}_iteration": record["iter"]})

    def state_dict(self) -> dict[str, Any]:
        """Return the run's id and how many records it has; to be handed to the constructor as `saved`."""
        return {"run_id": self.run.id, "step": self.reported}

    def close(self) -> None:
        """Finish the wandb run."""
        self.run.finish()

    def _send(self, metrics: Metrics) -> None:
        if self.reported >= self.received:
            metrics = {**metrics, **{other: metrics[name] for name, other in self.also.items() if name in metrics}}
            self.run.log({key: _number(value) for key, value in metrics.items()})
        self.reported += 1


class CompositeLogger(Logger):
    """Passes every report on to several loggers. One that fails is warned of once and never stops the run."""

    def __init__(self, loggers: Sequence[Logger] = ()) -> None:
        self.loggers = list(loggers)
        self.warned: set[str] = set()

    def log_step(self, metrics: Metrics) -> None:
        """Pass on an update."""
        self._each(lambda logger: logger.log_step(metrics))

    def log_eval(self, metrics: Metrics) -> None:
        """Pass on an evaluation."""
        self._each(lambda logger: logger.log_eval(metrics))

    def log_info(self, text: str) -> None:
        """Pass on a line."""
        self._each(lambda logger: logger.log_info(text))

    def log_checkpoint(self, text: str) -> None:
        """Pass on a line about a checkpoint."""
        self._each(lambda logger: logger.log_checkpoint(text))

    def log_event(self, record: Metrics) -> None:
        """Pass on what happened to the run."""
        self._each(lambda logger: logger.log_event(record))

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the loggers that have one, by class name; of several of one class, by number as well."""
        states: dict[str, Any] = {}

        def keep(logger: Logger) -> None:
            if hasattr(logger, "state_dict"):
                states[self._name(logger)] = logger.state_dict()

        self._each(keep)
        return states

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Give every logger that takes one the state it had."""

        def give(logger: Logger) -> None:
            name = self._name(logger)
            if name in states and hasattr(logger, "load_state_dict"):
                logger.load_state_dict(states[name])

        self._each(give)

    def close(self) -> None:
        """Close all of them."""
        self._each(lambda logger: logger.close())

    def _name(self, logger: Logger) -> str:
        """Return a logger's class name, numbered from the second of that class on."""
        alike = [other for other in self.loggers if type(other) is type(logger)]
        number = 1 + next(index for index, other in enumerate(alike) if other is logger)
        return type(logger).__name__ + (f"-{number}" if number > 1 else "")

    def _each(self, report: Callable[[Logger], None]) -> None:
        for logger in self.loggers:
            try:
                report(logger)
            except Exception as error:
                cause = f"{type(logger).__name__}: {type(error).__name__}: {error}"
                if cause not in self.warned:
                    log.warning(f"logging failed, training goes on ({cause})")
                self.warned.add(cause)


def _is_unchanged(file: FileIO, path: Path, size: int) -> bool:
    """Tell whether an open file is still the one at `path`, and as long as it was. Takes a few microseconds."""
    try:
        there = os.stat(path)
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(file.fileno())) and there.st_size == size


def _bytes_of_whole_lines(file: FileIO) -> int:
    """Return where the last whole line of a file ends."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(end - BLOCK, 0)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _has_key(wandb: Any) -> bool:
    """Tell whether wandb knows an API key, without asking the user for one."""
    if "prompt" in inspect.signature(wandb.login).parameters:
        return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)  # before wandb 0.26


def _number(value: Any) -> Any:
    """Return a tensor with one element as a Python number."""
    return value.item() if hasattr(value, "item") else value


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it: a tensor as its number, nan and infinities as None."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    value = _number(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
