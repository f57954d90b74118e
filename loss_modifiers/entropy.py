"""More weight for the sequences whose wrong answers are concentrated on a few tokens."""

import logging

import torch

from core.losses import per_sequence
from loss_modifiers.base import TOKEN_TYPES, LossModifier, change, spread
from loss_modifiers.wrong_answers import relative_entropy

LARGEST_WEIGHT = 1000.0  # before the weights are brought to a mean of 1
log = logging.getLogger("coregpt")


class EntropyModifier(LossModifier):
    """Weighs each sequence by 1 / entropy of its wrong answers, the weights brought to a mean of `weight`.

    The entropy of a position is divided by the log of the number of wrong answers that matter, so it lies in [0, 1]; a
    sequence's is the mean over its valid positions. Gradients flow through the weights. A row without a valid position
    has no part in the mean.

    threshold: entropies below count as this; eps: against division by zero, and below it a probability is negligible
    """

    training_types = TOKEN_TYPES

    def __init__(self, weight: float = 1.0, threshold: float = 0.0, eps: float = 1e-8) -> None:
        self.weight = weight
        self.threshold = threshold
        self.eps = eps
        self._told = False

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the weighted losses (B,)."""
        if len(loss) == 1 and not self._told and not torch.compiler.is_compiling():
            log.info(
                "EntropyModifier weighs the sequences of a batch against each other: a batch of one is left as it is"
            )
            self._told = True
        entropy = relative_entropy(logits, targets, self.eps)
        of_sequence = per_sequence(entropy, mask)
        weights = self._weights(of_sequence, mask.any(dim=1)) if len(loss) > 1 else torch.ones_like(of_sequence)
        weighted = per_sequence(loss, mask) * weights
        self._metrics = {
            **_position_metrics(entropy.detach(), mask),
            **_metrics("sample_{}_entropy", "sample_entropy_std", of_sequence.detach()),
            **_metrics("weight_{}", "weight_std", weights.detach()),
            **change(loss, weighted, mask),
            "batch_size": torch.tensor(len(loss)),
            "weight_sum": weights.detach().sum(),
        }
        return weighted

    def _weights(self, entropy: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        weights = (1.0 / (entropy.clamp(min=self.threshold) + self.eps)).clamp(self.eps, LARGEST_WEIGHT) * counts
        return weights * (self.weight * counts.sum() / (weights.sum() + self.eps))


def _metrics(name: str, std_name: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    found = {name.format(kind): value for kind, value in zip(("min", "max"), values.aminmax(), strict=True)}
    return {name.format("mean"): values.mean(), **found, std_name: spread(values)}


def _position_metrics(entropy: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    valid = mask.sum().clamp(min=1)
    mean = entropy.masked_fill(~mask, 0.0).sum() / valid
    squares = (entropy - mean).square().masked_fill(~mask, 0.0).sum()
    return {
        "per_position_mean_entropy": mean,
        "per_position_max_entropy": entropy.masked_fill(~mask, 0.0).max(),
        "per_position_min_entropy": entropy.masked_fill(~mask, 1.0).min(),
        "per_position_entropy_std": (squares / (valid - 1).clamp(min=1)).sqrt(),
    }
