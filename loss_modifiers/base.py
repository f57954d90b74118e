"""The contract of a loss modifier."""

from abc import ABC, abstractmethod

import torch


class LossModifier(ABC):
    """Changes the loss that training minimises; evaluation never sees it.

    The contract: `modify` gets the loss of every position (B, T) and returns the changed one; a modifier that weighs
    whole sequences may return (B,). After the last modifier the mean is taken once, over the valid positions of
    (B, T) or over the sequences of (B,).

        class ZLoss(LossModifier):
            def modify(self, loss, logits, targets, mask):
                return loss + 1e-4 * logits.logsumexp(dim=-1).square()
    """

    @abstractmethod
    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the changed loss. logits (B, T, V), targets (B, T), mask (B, T): True where the target counts."""

    def metrics(self) -> dict[str, torch.Tensor]:
        """Return detached tensors worth logging, left on the device."""
        return {}
