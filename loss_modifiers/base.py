"""LossModifier, the interface of a loss modifier, and functions that several modifiers use."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from core.losses import mean_loss

TRAINING_TYPES = ("language_model", "unmasking", "token_classification", "sequence_scoring")
TOKEN_TYPES = TRAINING_TYPES[:3]  # those with a target per position


class LossModifier(ABC):
    """Changes the loss that training minimises; evaluation uses the unchanged loss.

    The contract: in tasks with a target per position, `modify` gets loss, targets and mask (B, T) and logits (B, T, V).
    The mask is True at valid positions; elsewhere targets are -1 or -100 and must not be used as an index. In sequence
    scoring it gets loss, logits (the scores) and targets (floats), each (B,), and a mask (B,) that is all True.

    A modifier of positions returns (B, T). A modifier that weights sequences returns (B,), a multiple of
    `per_sequence(loss, mask)`. After the last modifier the mean is taken once, over the valid positions of (B, T) or
    over the sequences of (B,) with at least one valid position. So modifiers of positions must come first.

    iter_num:       the iteration, for schedules
    inputs:         the inputs of the model (B, T), if the objective sets them
    training_types: the training types that the modifier supports

        class Louder(LossModifier):
            def modify(self, loss, logits, targets, mask):
                return loss * 2
    """

    iter_num: int = 0
    inputs: torch.Tensor | None = None
    training_types: tuple[str, ...] = TRAINING_TYPES
    _metrics: dict[str, torch.Tensor] = {}  # replaced in every call, never changed in place

    @abstractmethod
    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the changed loss, (B, T) or (B,)."""

    def metrics(self) -> dict[str, torch.Tensor]:
        """Return the metrics of the last call: detached 0-dim tensors, on the device unless they are constants."""
        return dict(self._metrics)

    def reset_metrics(self) -> None:
        """Remove the metrics of the last call; moving averages are kept."""
        self._metrics = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint must hold for an exact resume; empty for most modifiers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  (may stay empty)
        """Restore the state that `state_dict` returned."""


def weighted(loss: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the loss, (B, T) or (B,), with each sequence multiplied by its weight. weights (B,)"""
    return loss * (weights if loss.dim() == 1 else weights[:, None])


def change_metrics(before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the mean losses before and after a modifier, and their ratio, as metrics."""
    original, final = mean_loss(before.detach(), mask), mean_loss(after.detach(), mask)
    return {"original_loss": original, "final_loss": final, "loss_ratio": final / (original + 1e-8)}


def sample_std(values: torch.Tensor) -> torch.Tensor:
    """Return the sample standard deviation (), 0 for a single value."""
    return values.std(correction=min(1, values.numel() - 1))


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Return the values in float32 or float64; under autocast logits and scores have 16 bits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
