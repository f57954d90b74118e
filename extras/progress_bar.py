"""A line at the bottom of the terminal that says how far the run is."""

import time
from collections.abc import Callable
from typing import Any, TextIO

from core.callback import Callback
from core.logger import Logger, Metrics

ERASE = "\r\x1b[K"
SECONDS_BETWEEN = 0.2
WIDTH = 24


class ProgressBar(Logger, Callback):
    """Redraws itself after updates, and gives way to whatever line another logger is about to print.

    As a callback it learns of every update; as the first of the loggers it learns of every line. It reads no tensor,
    and so never waits for the device.
    """

    def __init__(self, stream: TextIO, max_iters: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream
        self.max_iters = max_iters
        self.clock = clock
        self.begun: tuple[float, int] | None = None
        self.drawn_at = float("-inf")

    def on_step_end(self, trainer: Any, result: Any) -> None:
        """Redraw, at most five times a second."""
        now = self.clock()
        self.begun = self.begun or (now, trainer.iter_num)
        if now - self.drawn_at < SECONDS_BETWEEN:
            return
        self.drawn_at = now
        share = min(trainer.iter_num / max(self.max_iters, 1), 1.0)
        bar = "#" * round(share * WIDTH)
        left = self._seconds_left(now, trainer.iter_num)
        self._write(f"{ERASE}[{bar:<{WIDTH}}] {share:4.0%} {left}")

    def on_train_end(self, trainer: Any) -> None:
        """Leave a clean line behind."""
        self._write(ERASE)

    def log_step(self, metrics: Metrics) -> None:
        """Make room for a line."""
        self._write(ERASE)

    def log_eval(self, metrics: Metrics) -> None:
        """Make room for a line."""
        self._write(ERASE)

    def log_info(self, text: str) -> None:
        """Make room for a line."""
        self._write(ERASE)

    def log_checkpoint(self, text: str) -> None:
        """Make room for a line."""
        self._write(ERASE)

    def close(self) -> None:
        """Leave a clean line behind, however the run ended."""
        self._write(ERASE)

    def _seconds_left(self, now: float, iter_num: int) -> str:
        assert self.begun is not None
        began, first = self.begun
        if iter_num == first:
            return ""
        seconds = int((now - began) / (iter_num - first) * max(self.max_iters - iter_num, 0))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):  # the terminal is gone; the run is not
            self.drawn_at = float("inf")
