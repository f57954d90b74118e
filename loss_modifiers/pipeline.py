"""Several loss modifiers in a row."""

from collections.abc import Sequence

import torch

from loss_modifiers.base import LossModifier


class LossModifierPipeline(LossModifier):
    """Applies modifiers in the order given; each sees what the ones before it made of the loss."""

    def __init__(self, modifiers: Sequence[LossModifier] = ()) -> None:
        self.modifiers = list(modifiers)

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss after all of them."""
        for modifier in self.modifiers:
            loss = modifier.modify(loss, logits, targets, mask)
        return loss

    def metrics(self) -> dict[str, torch.Tensor]:
        """Return every modifier's metrics as `<Class>.<metric>`."""
        named = [(type(modifier).__name__, modifier.metrics()) for modifier in self.modifiers]
        return {f"{name}.{key}": value for name, metrics in named for key, value in metrics.items()}
