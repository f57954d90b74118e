"""What one training step computes: the contract of an objective, and next-token prediction, the default."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

Batch = Any  # whatever the data source's get_batch returns; only the objective looks inside
Modify = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Output(NamedTuple):
    """A scalar loss to minimise, and detached tensors worth logging, left on the device."""

    loss: torch.Tensor
    metrics: dict[str, torch.Tensor]


class Objective(ABC):
    """Turns a model and a batch into a loss. The seam for training something else than the next token.

    The contract: called once per micro-batch inside autocast; draws whatever corruption or noise it needs; modifies
    the loss only when `train` is true, so that evaluations of differently trained runs can be compared.
    """

    @abstractmethod
    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        """Return the loss of one micro-batch."""


class LanguageModeling(Objective):
    """Mean cross-entropy of the next token over the positions whose target is not -1.

    loss_modifier: `modify(loss (B, T), logits (B, T, V), targets (B, T), mask (B, T)) -> loss (B, T) or (B,)`;
        without one, the loss is the model's own, untouched
    """

    def __init__(self, loss_modifier: Modify | None = None) -> None:
        self.loss_modifier = loss_modifier

    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        """Return the loss of a batch of inputs and targets, each (B, T) int64."""
        inputs, targets = batch
        logits, loss = model(inputs, targets)
        if train and self.loss_modifier is not None:
            loss = self._modified(logits, targets, self.loss_modifier)
        return Output(loss, {})

    def _modified(self, logits: torch.Tensor, targets: torch.Tensor, modify: Modify) -> torch.Tensor:
        mask = targets != -1  # (B, T)
        per_position = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
        loss = modify(per_position.view_as(targets), logits, targets, mask)
        return loss[mask].mean() if loss.dim() == 2 else loss.mean()
