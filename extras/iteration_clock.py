"""The current iteration, for schedules of loss modifiers and of corruption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from core.callback import Callback

if TYPE_CHECKING:
    from core.trainer import Trainer


class HasIteration(Protocol):
    """An object with a schedule over iterations."""

    iter_num: int


class IterationClock(Callback):
    """Sets `iter_num` of the listeners before each update."""

    def __init__(self, listeners: Sequence[HasIteration]) -> None:
        self.listeners = listeners

    def on_step_begin(self, trainer: Trainer) -> None:
        for listener in self.listeners:
            listener.iter_num = trainer.iter_num
