"""What one training step computes: the contract of an objective, and next-token prediction, the default."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from core.batch import Batch
from core.errors import ConfigError
from core.losses import cross_entropy, mean_loss


class Modifiers(Protocol):
    """What an objective needs of the loss modifiers; `loss_modifiers.LossModifierPipeline` is one.

    inputs: what the model was given (B, T), for modifiers that need it; set before `modify`
    """

    inputs: torch.Tensor | None

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the changed loss: (B, T), or (B,) if sequences are weighted. loss, targets, mask: (B, T)"""

    def metrics(self) -> dict[str, Any]:
        """Return detached tensors to log, left on the device."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the modifiers remember from one update to the next."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class Output(NamedTuple):
    """A scalar loss to minimise, and detached tensors to log, left on the device.

    details:  of an evaluation, what the objective's meter looks at
    reported: the loss that training reports, where `loss` is a share of the update's; None: `loss` itself
    """

    loss: torch.Tensor
    metrics: dict[str, torch.Tensor]
    details: Any = None
    reported: torch.Tensor | None = None


class Meter(ABC):
    """Measures, over the batches of one split in an evaluation, what an objective reports next to the loss."""

    @abstractmethod
    def add(self, batch: Batch, details: Any) -> None:
        """Add one batch. details: those of the objective's output"""

    @abstractmethod
    def result(self) -> dict[str, float]:
        """Return the measured values by the name they are logged under."""


class Objective(ABC):
    """Turns a model and a batch into a loss. Subclass it to train something other than the next token.

    The contract: called once per micro-batch inside autocast; draws whatever corruption or noise it needs; modifies
    the loss only if `train` is true, so that evaluations of differently trained runs can be compared.
    """

    modifiers: Modifiers | None = None

    @abstractmethod
    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        """Return the loss of one micro-batch."""

    def takes(self, batch: Batch) -> bool:
        """Return whether a batch has the parts that this objective reads; asked of one from a checkpoint of others."""
        return True

    def meter(self, split: str) -> Meter | None:
        """Return a new meter for one split of an evaluation; None if the loss is all that is measured."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what each rank's checkpoint keeps of this objective, new values each time; here its modifiers'."""
        return self.modifiers.state_dict() if self.modifiers else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if self.modifiers:
            self.modifiers.load_state_dict(state)


class LanguageModeling(Objective):
    """Mean cross-entropy of the next token over the positions whose target is not -1.

    modifiers:    change the loss that training minimises; without any, the model's own loss is used untouched
    check_logits: returns a flag on the device, reported as `finite` in training; None reports nothing
    """

    def __init__(
        self,
        modifiers: Modifiers | None = None,
        check_logits: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.modifiers = modifiers
        self.check_logits = check_logits

    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        """Return the loss of a batch of inputs and targets, each (B, T) int64."""
        inputs, targets = batch
        returned = model(inputs, targets)
        if not (isinstance(returned, tuple | list) and len(returned) == 2):
            what = f"{len(returned)} values" if isinstance(returned, tuple | list) else type(returned).__name__
            raise ConfigError(
                f"model.py's GPT returns {what} from forward(inputs, targets), wanted logits and loss, as in nanoGPT: "
                "return these two"
            )
        logits, loss = returned
        if not train:
            return Output(loss, {})
        metrics = {"finite": self.check_logits(logits.detach())} if self.check_logits else {}
        if self.modifiers is None:
            return Output(loss, metrics)
        per_position = cross_entropy(logits, targets)
        mask = targets != -1
        loss = mean_loss(self.modifiers.modify(per_position, logits, targets, mask), mask)
        return Output(loss, {**metrics, **report(self.modifiers)})

    def takes(self, batch: Batch) -> bool:
        return isinstance(batch, tuple | list) and len(batch) == 2


def report(modifiers: Modifiers) -> dict[str, Any]:
    """Return the modifiers' metrics under the names they are logged by."""
    return {f"loss_modifiers/{name}": value for name, value in modifiers.metrics().items()}
