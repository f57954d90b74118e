"""The duration of an evaluation, and the part of it that loads data."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from core.callback import Callback

if TYPE_CHECKING:
    from core.trainer import Trainer

Draw = Callable[[str], Any]


class ValidationTimer(Callback):
    """Prints the train_run line's `validation: ..ms (data: ..ms, forward: ..ms)` after each evaluation."""

    def __init__(self) -> None:
        self.began = 0.0
        self.data_seconds = 0.0  # of the current evaluation

    def timed(self, draw: Draw) -> Draw:
        """Return `draw` with its duration added to `data_seconds`."""

        def timed_draw(split: str) -> Any:
            began = time.perf_counter()
            batch = draw(split)
            self.data_seconds += time.perf_counter() - began
            return batch

        return timed_draw

    def on_eval_begin(self, trainer: Trainer) -> None:
        self.began, self.data_seconds = time.perf_counter(), 0.0

    def on_eval_end(self, trainer: Trainer, losses: dict[str, Any]) -> None:
        total, data = (time.perf_counter() - self.began) * 1000, self.data_seconds * 1000
        trainer.logger.log_info(f"  validation: {total:.2f}ms (data: {data:.2f}ms, forward: {total - data:.2f}ms)")
