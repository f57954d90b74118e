"""What one training step computes: the contract of an objective, and next-token prediction, the default."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from core.losses import cross_entropy, mean_loss

Batch = Any  # whatever the data source's get_batch returns; only the objective looks inside


class Modifiers(Protocol):
    """What an objective asks of the loss modifiers; `loss_modifiers.LossModifierPipeline` is one.

    inputs: what the model was given (B, T), for those that need it; set before `modify`
    """

    inputs: torch.Tensor | None

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the changed loss: (B, T), or (B,) where whole sequences are weighed. loss, targets, mask: (B, T)"""

    def metrics(self) -> dict[str, Any]:
        """Return detached tensors worth logging, left on the device."""

    def state_dict(self) -> dict[str, Any]:
        """Return what they remember from one update to the next."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it over."""


class Output(NamedTuple):
    """A scalar loss to minimise, and detached tensors worth logging, left on the device.

    details: of an evaluation, what the objective's meter looks at
    """

    loss: torch.Tensor
    metrics: dict[str, torch.Tensor]
    details: Any = None


class Meter(ABC):
    """Sums up, over the batches of one split in an evaluation, what an objective measures beside the loss."""

    @abstractmethod
    def add(self, batch: Batch, details: Any) -> None:
        """Look at one batch and at what the objective made of it."""

    @abstractmethod
    def result(self) -> dict[str, float]:
        """Return what was measured, under the names it is logged by."""


class Objective(ABC):
    """Turns a model and a batch into a loss. The seam for training something else than the next token.

    The contract: called once per micro-batch inside autocast; draws whatever corruption or noise it needs; modifies
    the loss only when `train` is true, so that evaluations of differently trained runs can be compared.
    """

    modifiers: Modifiers | None = None

    @abstractmethod
    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        """Return the loss of one micro-batch."""

    def meter(self, split: str) -> Meter | None:
        """Return what measures one split in an evaluation beside the loss; None for nothing."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what every rank's checkpoint keeps of this objective, new values each time; here its modifiers'."""
        return self.modifiers.state_dict() if self.modifiers else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        if self.modifiers:
            self.modifiers.load_state_dict(state)


class LanguageModeling(Objective):
    """Mean cross-entropy of the next token over the positions whose target is not -1.

    modifiers: change the loss that training minimises; without any, it is the model's own, untouched
    """

    def __init__(self, modifiers: Modifiers | None = None) -> None:
        self.modifiers = modifiers

    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        """Return the loss of a batch of inputs and targets, each (B, T) int64."""
        inputs, targets = batch
        logits, loss = model(inputs, targets)
        if not train or self.modifiers is None:
            return Output(loss, {})
        per_position = cross_entropy(logits, targets)
        mask = targets != -1
        loss = mean_loss(self.modifiers.modify(per_position, logits, targets, mask), mask)
        return Output(loss, report(self.modifiers))


def report(modifiers: Modifiers) -> dict[str, Any]:
    """Return what the modifiers have to tell, under the names it is logged by."""
    return {f"loss_modifiers/{name}": value for name, value in modifiers.metrics().items()}
