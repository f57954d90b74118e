"""Several loss modifiers in a row."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from loss_modifiers.base import LossModifier


class LossModifierPipeline(LossModifier):
    """Applies modifiers in the order given, one of a class; each sees what the ones before it made of the loss."""

    def __init__(self, modifiers: Sequence[LossModifier] = ()) -> None:
        self.modifiers: list[LossModifier] = []
        self.enabled = True
        self._iter_num = 0
        self._inputs: torch.Tensor | None = None
        for modifier in modifiers:
            self.add_modifier(modifier)

    def add_modifier(self, modifier: LossModifier) -> None:
        """Apply one more, after those there are."""
        modifier.iter_num, modifier.inputs = self._iter_num, self._inputs
        self.modifiers.append(modifier)

    def for_training_type(self, name: str) -> "LossModifierPipeline":
        """Return a pipeline of those that apply to a training type; the modifiers are shared, not copied."""
        return LossModifierPipeline([modifier for modifier in self.modifiers if name in modifier.training_types])

    @property
    def iter_num(self) -> int:
        """The iteration, as every modifier was told it."""
        return self._iter_num

    @iter_num.setter
    def iter_num(self, value: int) -> None:
        """Tell every modifier the iteration."""
        self._iter_num = value
        for modifier in self.modifiers:
            modifier.iter_num = value

    @property
    def inputs(self) -> torch.Tensor | None:
        """What the model was given (B, T), as every modifier was told it."""
        return self._inputs

    @inputs.setter
    def inputs(self, value: torch.Tensor | None) -> None:
        """Tell every modifier what the model was given."""
        self._inputs = value
        for modifier in self.modifiers:
            modifier.inputs = value

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss after all of them; the very tensor it got when there are none, or while disabled."""
        if self.enabled:
            for modifier in self.modifiers:
                loss = modifier.modify(loss, logits, targets, mask)
        return loss

    def metrics(self) -> dict[str, torch.Tensor]:
        """Return every modifier's metrics as `<Class>.<metric>`."""
        named = [(type(modifier).__name__, modifier.metrics()) for modifier in self.modifiers]
        return {f"{name}.{key}": value for name, metrics in named for key, value in metrics.items()}

    def reset_metrics(self) -> None:
        """Forget every modifier's metrics of the last call."""
        for modifier in self.modifiers:
            modifier.reset_metrics()

    modify_loss, get_all_metrics, reset_all_metrics = modify, metrics, reset_metrics  # their names in the core line

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the modifiers that have one, by class."""
        states = {type(modifier).__name__: modifier.state_dict() for modifier in self.modifiers}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hand the states out; a modifier that is new begins afresh, and the state of one that is gone is left."""
        for modifier in self.modifiers:
            if type(modifier).__name__ in state:
                modifier.load_state_dict(state[type(modifier).__name__])

    def is_empty(self) -> bool:
        """Whether there is nothing to apply."""
        return not self.modifiers

    def get_enabled_modifier_names(self) -> list[str]:
        """Return the classes of the modifiers, in the order they are applied."""
        return [type(modifier).__name__ for modifier in self.modifiers]

    @contextmanager
    def temporarily_disabled(self) -> Iterator[None]:
        """Leave the loss alone inside a `with` block, and go on as before after the outermost of several."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before
