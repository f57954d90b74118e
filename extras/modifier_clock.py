"""Schedules of loss modifiers need to know the iteration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.callback import Callback

if TYPE_CHECKING:
    from core.trainer import Trainer
    from loss_modifiers import LossModifierPipeline


class ModifierClock(Callback):
    """Tells the loss modifiers the iteration before each update."""

    def __init__(self, modifiers: LossModifierPipeline) -> None:
        self.modifiers = modifiers

    def on_step_begin(self, trainer: Trainer) -> None:
        """Set the iteration."""
        self.modifiers.iter_num = trainer.iter_num
