"""The contract of a loss modifier, and what several of them compute alike."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from core.losses import mean_loss

TRAINING_TYPES = ("language_model", "unmasking", "token_classification", "sequence_scoring")
TOKEN_TYPES = TRAINING_TYPES[:3]  # one target per position


class LossModifier(ABC):
    """Changes the loss that training minimises; evaluation never sees it.

    The contract. In tasks with a target per position, `modify` gets loss, targets and mask (B, T) and logits
    (B, T, V). The mask is True where a target counts; elsewhere targets are -1 or -100, and never serve as an index.
    In sequence scoring it gets loss, logits (the scores) and targets (floats), each (B,), and a mask (B,) all True.

    A modifier that works on positions returns (B, T). One that weighs whole sequences returns (B,): it multiplies
    `per_sequence(loss, mask)`. After the last modifier the mean is taken once, over the valid positions of (B, T) or
    over those sequences of (B,) that have any. So modifiers stack, those on positions first.

    iter_num: the iteration, for schedules; inputs: what the model was given (B, T), where the objective tells it;
    training_types: where it applies

        class Louder(LossModifier):
            def modify(self, loss, logits, targets, mask):
                return loss * 2
    """

    iter_num: int = 0
    inputs: torch.Tensor | None = None
    training_types: tuple[str, ...] = TRAINING_TYPES
    _metrics: dict[str, torch.Tensor] = {}  # replaced at every call, never changed in place

    @abstractmethod
    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the changed loss, (B, T) or (B,)."""

    def metrics(self) -> dict[str, torch.Tensor]:
        """Return what the last call left worth logging: detached 0-dim tensors, on the device unless constant."""
        return dict(self._metrics)

    def reset_metrics(self) -> None:
        """Forget the metrics of the last call; moving averages go on."""
        self._metrics = {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold for training to go on as if never interrupted; empty for most."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  (may stay empty)
        """Take over what `state_dict` returned."""


def weigh(loss: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Multiply each sequence's loss by its weight (B,), of every position (B, T) or as a whole (B,)."""
    return loss * (weights if loss.dim() == 1 else weights[:, None])


def change(before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the metrics that say what a modifier made of the loss."""
    original, final = mean_loss(before.detach(), mask), mean_loss(after.detach(), mask)
    return {"original_loss": original, "final_loss": final, "loss_ratio": final / (original + 1e-8)}


def spread(values: torch.Tensor) -> torch.Tensor:
    """Return (): the sample standard deviation, 0 for a single value."""
    return values.std(correction=min(1, values.numel() - 1))


def widened(values: torch.Tensor) -> torch.Tensor:
    """Return the values in float32 at least: under autocast logits and scores arrive in 16 bits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
