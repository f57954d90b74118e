"""How long an evaluation takes, and how much of that goes into its data."""

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
        self.data_seconds = 0.0  # of the evaluation at hand

    def timed(self, draw: Draw) -> Draw:
        """Return `draw`, with the time that it takes added up."""

        def timed_draw(split: str) -> Any:
            began = time.perf_counter()
            batch = draw(split)
            self.data_seconds += time.perf_counter() - began
            return batch

        return timed_draw

    def on_eval_begin(self, trainer: Trainer) -> None:
        """Start the clock."""
        self.began, self.data_seconds = time.perf_counter(), 0.0

    def on_eval_end(self, trainer: Trainer, losses: dict[str, Any]) -> None:
        """Print what it shows."""
        whole, data = (time.perf_counter() - self.began) * 1000, self.data_seconds * 1000
        trainer.logger.log_info(f"  validation: {whole:.2f}ms (data: {data:.2f}ms, forward: {whole - data:.2f}ms)")
