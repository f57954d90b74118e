"""EntropyModifier: more weight for sequences whose wrong probability is concentrated on a few tokens."""

import logging

import torch

from core.losses import per_sequence
from loss_modifiers.base import TOKEN_TYPES, LossModifier, change_metrics, sample_std
from loss_modifiers.wrong_tokens import relative_entropy

MAX_WEIGHT = 1000.0  # before normalisation
log = logging.getLogger("coregpt")


class EntropyModifier(LossModifier):
    """Weights each sequence by 1 / entropy of its wrong tokens; the weights are normalised to a mean of `weight`.

    The entropy of a position is divided by the log of the number of wrong tokens with a probability above `eps`, so it
    is in [0, 1]; that of a sequence is the mean over its valid positions. Gradients flow through the weights. A row
    without a valid position does not count in the normalisation. A batch of one sequence is not weighted.

    threshold: minimum entropy of a sequence; lower ones are raised to it
    eps:       avoids division by zero
    """

    training_types = TOKEN_TYPES

    def __init__(self, weight: float = 1.0, threshold: float = 0.0, eps: float = 1e-8) -> None:
        self.weight = weight
        self.threshold = threshold
        self.eps = eps
        self._logged = False  # that a batch of one is not weighted

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the weighted losses (B,)."""
        if len(loss) == 1 and not self._logged and not torch.compiler.is_compiling():
            log.info(
                "EntropyModifier weights the sequences of a batch against each other: a batch of one is not weighted"
            )
            self._logged = True
        entropy = relative_entropy(logits, targets, self.eps)
        of_sequence = per_sequence(entropy, mask)
        weights = self._weights(of_sequence, mask.any(dim=1)) if len(loss) > 1 else torch.ones_like(of_sequence)
        weighted = per_sequence(loss, mask) * weights
        self._metrics = {
            **_position_metrics(entropy.detach(), mask),
            **_metrics("sample_{}_entropy", "sample_entropy_std", of_sequence.detach()),
            **_metrics("weight_{}", "weight_std", weights.detach()),
            **change_metrics(loss, weighted, mask),
            "batch_size": torch.tensor(len(loss)),
            "weight_sum": weights.detach().sum(),
        }
        return weighted

    def _weights(self, entropy: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Return the weights (B,), 0 for rows that do not count. entropy (B,), counts (B,) bool"""
        weights = (1.0 / (entropy.clamp(min=self.threshold) + self.eps)).clamp(self.eps, MAX_WEIGHT) * counts
        return weights * (self.weight * counts.sum() / (weights.sum() + self.eps))


def _metrics(name: str, std_name: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    found = {name.format(kind): value for kind, value in zip(("min", "max"), values.aminmax(), strict=True)}
    return {name.format("mean"): values.mean(), **found, std_name: sample_std(values)}


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
