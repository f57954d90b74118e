"""Where a run reports to: the console, a file of JSON lines, Weights & Biases, or several of them."""

import inspect
import json
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from core.checkpoint.class_states import stateful
from core.errors import WarnOnce

log = logging.getLogger("coregpt")
Metrics = dict[str, Any]
BLOCK = 2**16  # bytes read at a time
RUN = "run"  # the event with which a process begins or resumes a run
NOT_SENT = {"mean_loss", "elapsed_s", "tokens", "tokens_per_s"}  # wandb gets nanoGPT's keys; its records have times


class Logger(ABC):
    """Takes a run's reports. Subclass it to send them somewhere else.

    log_step: iter, loss, lr, time_ms, mfu (percent), grad_norm if known, the objective's metrics, and
        mean_loss     mean over all micro-batches of the update in this process; `loss` is nanoGPT's, the last one's
        elapsed_s     seconds since this process began to train
        tokens        tokens seen by all processes since iteration 0, this update's included
        tokens_per_s  their rate since the previous report, with its evaluations and saves; absent if not known
    log_eval: iter, train/loss, val/loss, lr, mfu (percent), elapsed_s, tokens, and the objective's metrics

    A logger whose reports must neither be lost nor repeated by a resume has a `state_dict()` of plain values, which
    every checkpoint keeps; its `load_state_dict(state)`, if it has one, is called when the run resumes there.
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
        """Send or write all that is not yet sent or written."""


class ConsoleLogger(Logger):
    """Prints nanoGPT's lines to stdout, byte for byte."""

    def log_step(self, metrics: Metrics) -> None:
        print("iter {iter}: loss {loss:.4f}, time {time_ms:.2f}ms, mfu {mfu:.2f}%".format(**metrics), flush=True)

    def log_eval(self, metrics: Metrics) -> None:
        losses = f"train loss {metrics['train/loss']:.4f}, val loss {metrics['val/loss']:.4f}"
        print(f"step {metrics['iter']}: {losses}", flush=True)

    def log_info(self, text: str) -> None:
        print(text, flush=True)

    def log_checkpoint(self, text: str) -> None:
        print(text, flush=True)


class JsonlLogger(Logger):
    """Appends one JSON object per report to a file; numbers that are not finite become null.

    The file has complete lines only: a line that was cut off, by a full disk or a kill, is removed before the next is
    written. A file that is removed or replaced during the run is made again or appended to.

    The record of the event `run` stands before the first report of this process, also after a rollback to its start.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file: FileIO | None = None
        self.size = 0  # bytes of complete lines in the open file
        self.run_record: Metrics | None = None
        self._run_record_at = -1  # its place in the file; -1: not written yet

    def log_step(self, metrics: Metrics) -> None:
        self._write({"event": "step", **metrics})

    def log_eval(self, metrics: Metrics) -> None:
        self._write({"event": "eval", **metrics})

    def log_checkpoint(self, text: str) -> None:
        self._write({"event": "checkpoint", "text": text})

    def log_event(self, record: Metrics) -> None:
        if record["event"] == RUN:
            self.run_record, self._run_record_at = record, -1
        else:
            self._write({"event": record["event"], **record})

    def state_dict(self) -> dict[str, int]:
        """Return the bytes written so far, by this run and those it continues."""
        if not self.path.exists():
            return {"offset": 0}
        os.fsync(self._open_file().fileno())  # a checkpoint refers to these lines
        return {"offset": self.size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Remove the lines after those that `state_dict` counted: the run reports them again."""
        offset, size = state["offset"], self.state_dict()["offset"]
        if size < offset:
            log.info(f"{self.path} has {size} bytes, had {offset} when the checkpoint was saved: lines are missing")
        elif size > offset:
            self._open_file().truncate(offset)

    def close(self) -> None:
        if self.file:
            self.file.close()
        self.file = None

    def _write(self, record: Metrics) -> None:
        self._open_file()
        is_lacking = self._run_record_at < 0 or self.size <= self._run_record_at  # a rollback may have removed it
        if self.run_record is not None and is_lacking:
            place = self.size
            self._append(self.run_record)
            self._run_record_at = place
        self._append(record)

    def _append(self, record: Metrics) -> None:
        line = json.dumps(_plain(record)).encode() + b"\n"
        file, rest = self._open_file(), memoryview(line)
        try:
            while rest:  # a disk that is nearly full may take a part only
                rest = rest[file.write(rest) :]
        except BaseException:
            with suppress(OSError):  # if this fails, `_open_file` removes the rest of the line
                file.truncate(self.size)
            raise
        self.size += len(line)

    def _open_file(self) -> FileIO:
        """Return the file, open and ending in a complete line, also after it or its folder was removed."""
        if self.file is None or not _is_unchanged(self.file, self.path, self.size):
            self.close()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "a+b", buffering=0)  # noqa: SIM115  (closed in `close`)
            self.size = _bytes_of_complete_lines(self.file)
            self.file.truncate(self.size)
        return self.file


class WandBLogger(Logger):
    """Sends evaluations to Weights & Biases under nanoGPT's keys; without key or network it works offline.

    An evaluation is sent with the last metrics of the loss modifiers. Of events the numbers are sent.

    step_interval: send every n-th iteration's step as well, of those that are logged; 0 sends evaluations only
    also:          second names, under which values are sent as well
    saved:         the `state_dict` of a run to continue under the same id. Reports that the server has received since
                   that state are not sent again
    place:         entity, group and tags of wandb.init, as far as they are given
    Raises ImportError if the package is missing.
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
        place: Mapping[str, Any] | None = None,
    ) -> None:
        import wandb

        self.step_interval = step_interval
        self.also = also or {}
        self.modifiers: Metrics = {}  # their last metrics

        settings: dict[str, Any] = dict(project=project, name=run_name, config=config, dir=str(out_dir))
        settings |= {name: value for name, value in (place or {}).items() if value}
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
        """Send an update if its iteration is a multiple of `step_interval`."""
        self.modifiers = {name: value for name, value in metrics.items() if name.startswith("loss_modifiers/")}
        if self.step_interval and metrics["iter"] % self.step_interval == 0:
            self._send(metrics)

    def log_eval(self, metrics: Metrics) -> None:
        self._send({**metrics, **self.modifiers})

    def log_event(self, record: Metrics) -> None:
        """Send the numbers of an event, if it has any, and its iteration as `<event>_iteration`."""
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        if numbers:
            self._send({**numbers, f"{record['event']}_iteration": record["iter"]})

    def state_dict(self) -> dict[str, Any]:
        """Return the run's id and its number of records, for the constructor's `saved`."""
        return {"run_id": self.run.id, "step": self.reported}

    def close(self) -> None:
        self.run.finish()

    def _send(self, metrics: Metrics) -> None:
        if self.reported >= self.received:
            metrics = {**metrics, **{other: metrics[name] for name, other in self.also.items() if name in metrics}}
            self.run.log({key: _number(value) for key, value in metrics.items() if key not in NOT_SENT})
        self.reported += 1


class CompositeLogger(Logger):
    """Passes every report on to several loggers. A logger that fails is warned of once and never stops the run."""

    def __init__(self, loggers: Sequence[Logger] = ()) -> None:
        self.loggers = list(loggers)
        self._warn = WarnOnce()

    def log_step(self, metrics: Metrics) -> None:
        self._each(lambda logger: logger.log_step(metrics))

    def log_eval(self, metrics: Metrics) -> None:
        self._each(lambda logger: logger.log_eval(metrics))

    def log_info(self, text: str) -> None:
        self._each(lambda logger: logger.log_info(text))

    def log_checkpoint(self, text: str) -> None:
        self._each(lambda logger: logger.log_checkpoint(text))

    def log_event(self, record: Metrics) -> None:
        self._each(lambda logger: logger.log_event(record))

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the loggers that have one, by class name; a logger that fails is absent."""
        states: dict[str, Any] = {}
        for name, logger in stateful(self.loggers).items():
            self._attempt(logger, partial(_keep_state, logger, states, name))
        return states

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Restore the loggers that have a `load_state_dict`."""
        for name, logger in stateful(self.loggers).items():
            if name in states and hasattr(logger, "load_state_dict"):
                self._attempt(logger, partial(logger.load_state_dict, states[name]))

    def close(self) -> None:
        self._each(lambda logger: logger.close())

    def _each(self, report: Callable[[Logger], None]) -> None:
        for logger in self.loggers:
            self._attempt(logger, partial(report, logger))

    def _attempt(self, logger: Logger, report: Callable[[], None]) -> None:
        try:
            report()
        except Exception as error:
            cause = f"{type(logger).__name__}: {type(error).__name__}: {error}"
            self._warn(f"logging failed, training goes on ({cause})", cause)


def _keep_state(logger: Any, states: dict[str, Any], name: str) -> None:
    states[name] = logger.state_dict()


def _is_unchanged(file: FileIO, path: Path, size: int) -> bool:
    """Return whether an open file is still the one at `path`, with the same size. Takes a few microseconds."""
    try:
        there = os.stat(path)
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(file.fileno())) and there.st_size == size


def _bytes_of_complete_lines(file: FileIO) -> int:
    """Return where the last complete line of a file ends."""
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
    """Return whether wandb has an API key, without asking the user for one."""
    if "prompt" in inspect.signature(wandb.login).parameters:
        return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)  # before wandb 0.26


def _number(value: Any) -> Any:
    """Return a tensor with one element as a Python number."""
    return value.item() if hasattr(value, "item") else value


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: a tensor as its number, nan and infinities as None."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    value = _number(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
