"""A progress bar on the last line of the terminal."""

import time
from collections.abc import Callable
from typing import Any, TextIO

from core.callback import Callback
from core.logger import Logger, Metrics

ERASE = "\r\x1b[K"
SECONDS_BETWEEN = 0.2
WIDTH = 24


class ProgressBar(Logger, Callback):
    """Draws the share of iterations done after updates, and is erased before another logger prints a line.

    It must be a callback, to be drawn after each update, and the first of the loggers, to be erased before each line.
    It reads no tensor, so it never waits for the device.
    """

    def __init__(self, stream: TextIO, max_iters: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream
        self.max_iters = max_iters
        self.clock = clock
        self.first_step: tuple[float, int] | None = None  # its time and iteration
        self.drawn_at = float("-inf")

    def on_step_end(self, trainer: Any, result: Any) -> None:
        """Draw the bar, at most five times a second."""
        now = self.clock()
        self.first_step = self.first_step or (now, trainer.iter_num)
        if now - self.drawn_at < SECONDS_BETWEEN:
            return
        self.drawn_at = now
        share = min(trainer.iter_num / max(self.max_iters, 1), 1.0)
        bar = "#" * round(share * WIDTH)
        left = self._time_left(now, trainer.iter_num)
        self._write(f"{ERASE}[{bar:<{WIDTH}}] {share:4.0%} {left}")

    def on_train_end(self, trainer: Any) -> None:
        self._write(ERASE)

    def log_step(self, metrics: Metrics) -> None:
        self._write(ERASE)

    def log_eval(self, metrics: Metrics) -> None:
        self._write(ERASE)

    def log_info(self, text: str) -> None:
        self._write(ERASE)

    def log_checkpoint(self, text: str) -> None:
        self._write(ERASE)

    def close(self) -> None:
        """Erase the bar; called also if training failed."""
        self._write(ERASE)

    def _time_left(self, now: float, iter_num: int) -> str:
        assert self.first_step is not None
        began, first = self.first_step
        if iter_num == first:
            return ""
        seconds = int((now - began) / (iter_num - first) * max(self.max_iters - iter_num, 0))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):  # the terminal was closed; training continues without the bar
            self.drawn_at = float("inf")
