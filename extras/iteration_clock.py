"""Schedules of loss modifiers, and of corruption, need to know the iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from core.callback import Callback

if TYPE_CHECKING:
    from core.trainer import Trainer


class HasIteration(Protocol):
    """What the clock sets."""

    iter_num: int


class IterationClock(Callback):
    """Tells whoever asks for it the iteration before each update."""

    def __init__(self, listeners: Sequence[HasIteration]) -> None:
        self.listeners = listeners

    def on_step_begin(self, trainer: Trainer) -> None:
        """Set the iteration."""
        for listener in self.listeners:
            listener.iter_num = trainer.iter_num
