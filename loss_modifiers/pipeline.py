"""LossModifierPipeline: several loss modifiers as one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from loss_modifiers.base import LossModifier


class LossModifierPipeline(LossModifier):
    """Applies modifiers in the given order; each gets the loss that the previous one returned.

    A class may occur only once: metrics and states are stored by class name.
    """

    def __init__(self, modifiers: Sequence[LossModifier] = ()) -> None:
        self.modifiers: list[LossModifier] = []
        self.enabled = True
        self._iter_num = 0
        self._inputs: torch.Tensor | None = None
        for modifier in modifiers:
            self.add_modifier(modifier)

    def add_modifier(self, modifier: LossModifier) -> None:
        """Add a modifier at the end."""
        modifier.iter_num, modifier.inputs = self._iter_num, self._inputs
        self.modifiers.append(modifier)

    @property
    def iter_num(self) -> int:
        """The iteration, the same in every modifier."""
        return self._iter_num

    @iter_num.setter
    def iter_num(self, value: int) -> None:
        """Set the iteration of every modifier."""
        self._iter_num = value
        for modifier in self.modifiers:
            modifier.iter_num = value

    @property
    def inputs(self) -> torch.Tensor | None:
        """The inputs of the model (B, T), the same in every modifier."""
        return self._inputs

    @inputs.setter
    def inputs(self, value: torch.Tensor | None) -> None:
        """Set the model's inputs in every modifier."""
        self._inputs = value
        for modifier in self.modifiers:
            modifier.inputs = value

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss after all modifiers; the same tensor if there are none or the pipeline is disabled."""
        if self.enabled:
            for modifier in self.modifiers:
                loss = modifier.modify(loss, logits, targets, mask)
        return loss

    def metrics(self) -> dict[str, torch.Tensor]:
        """Return the metrics of all modifiers, named `<class>.<metric>`."""
        named = [(type(modifier).__name__, modifier.metrics()) for modifier in self.modifiers]
        return {f"{name}.{key}": value for name, metrics in named for key, value in metrics.items()}

    def reset_metrics(self) -> None:
        for modifier in self.modifiers:
            modifier.reset_metrics()

    modify_loss, get_all_metrics, reset_all_metrics = modify, metrics, reset_metrics  # names of the core line

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the modifiers that have one, by class name."""
        states = {type(modifier).__name__: modifier.state_dict() for modifier in self.modifiers}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the modifiers' states; a modifier without a saved state keeps its own, other states are ignored."""
        for modifier in self.modifiers:
            if type(modifier).__name__ in state:
                modifier.load_state_dict(state[type(modifier).__name__])

    def is_empty(self) -> bool:
        """Return whether the pipeline has no modifiers."""
        return not self.modifiers

    def get_enabled_modifier_names(self) -> list[str]:
        """Return the class names of the modifiers, in order of application."""
        return [type(modifier).__name__ for modifier in self.modifiers]

    @contextmanager
    def temporarily_disabled(self) -> Iterator[None]:
        """Disable the pipeline inside a `with` block; blocks may be nested."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before
