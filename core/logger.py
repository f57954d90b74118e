"""Where a run reports to: the console, a file of JSON lines, Weights & Biases, or several at once."""

import inspect
import json
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

log = logging.getLogger("coregpt")
Metrics = dict[str, Any]


class Logger(ABC):
    """Takes a run's reports. The seam for another place to send them to.

    log_step: iter, loss, lr, time_ms, mfu (percent), grad_norm where known
    log_eval: iter, train/loss, val/loss, lr, mfu (percent)
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
    """Appends one JSON object per report to a file; numbers that are not finite become null."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file: TextIO | None = None

    def log_step(self, metrics: Metrics) -> None:
        """Write an update."""
        self._write({"event": "step", **metrics})

    def log_eval(self, metrics: Metrics) -> None:
        """Write an evaluation."""
        self._write({"event": "eval", **metrics})

    def log_checkpoint(self, text: str) -> None:
        """Write that a checkpoint is being made."""
        self._write({"event": "checkpoint", "text": text})

    def close(self) -> None:
        """Close the file."""
        if self.file:
            self.file.close()

    def _write(self, record: Metrics) -> None:
        if self.file is None:
            self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (closed in `close`)
            self.file.write("\n" if _ends_in_mid_line(self.path) else "")
        self.file.write(json.dumps({key: _plain(value) for key, value in record.items()}) + "\n")
        self.file.flush()


class WandBLogger(Logger):
    """Sends evaluations to Weights & Biases under nanoGPT's keys; without key or network it works offline.

    step_interval: send every n-th iteration's step as well, of those that are logged; 0 sends evaluations only.
    Raises ImportError where the package is missing.
    """

    def __init__(
        self,
        project: str | None,
        run_name: str | None,
        config: dict[str, Any],
        out_dir: str | Path,
        step_interval: int = 0,
    ) -> None:
        import wandb

        self.step_interval = step_interval

        settings: dict[str, Any] = dict(project=project, name=run_name, config=config, dir=str(out_dir))
        wished: Any = os.environ.get("WANDB_MODE")
        try:
            if wished is None and not _has_key(wandb):
                raise wandb.errors.UsageError("no API key")
            self.run = wandb.init(**settings, mode=wished, settings=wandb.Settings(init_timeout=20, silent=True))
        except Exception as error:
            log.info(f"wandb: {error}; logging offline to {out_dir}/wandb (send it later with `wandb sync`)")
            self.run = wandb.init(**settings, mode="offline", settings=wandb.Settings(silent=True))

    def log_step(self, metrics: Metrics) -> None:
        """Send an update, if its turn has come."""
        if self.step_interval and metrics["iter"] % self.step_interval == 0:
            self.run.log({key: _number(value) for key, value in metrics.items()})

    def log_eval(self, metrics: Metrics) -> None:
        """Send an evaluation."""
        self.run.log({key: _number(value) for key, value in metrics.items()})

    def close(self) -> None:
        """Finish the wandb run."""
        self.run.finish()


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

    def close(self) -> None:
        """Close all of them."""
        self._each(lambda logger: logger.close())

    def _each(self, report: Callable[[Logger], None]) -> None:
        for logger in self.loggers:
            try:
                report(logger)
            except Exception as error:
                cause = f"{type(logger).__name__}: {type(error).__name__}: {error}"
                if cause not in self.warned:
                    log.warning(f"logging failed, training goes on ({cause})")
                self.warned.add(cause)


def _ends_in_mid_line(path: Path) -> bool:
    """Tell whether the last writer of a file was stopped in the middle of a line."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return file.read(1) not in (b"", b"\n")


def _has_key(wandb: Any) -> bool:
    """Tell whether wandb knows an API key, without asking the user for one."""
    if "prompt" in inspect.signature(wandb.login).parameters:
        return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)  # before wandb 0.26


def _number(value: Any) -> Any:
    """Return a tensor with one element as a Python number."""
    return value.item() if hasattr(value, "item") else value


def _plain(value: Any) -> Any:
    """Return a number as JSON knows it: nan and infinities as None."""
    value = _number(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
