"""Entropy of the probabilities that a model gives to wrong tokens, those that are not the target."""

import torch

from loss_modifiers.base import at_least_float32


def entropy(logits: torch.Tensor, targets: torch.Tensor, eps: float = 1e-9) -> torch.Tensor:
    """Return the entropy (B, T), in nats, of the wrong tokens' probabilities normalised to a sum of 1."""
    probs, total = _wrong_probs(logits, targets)
    negligible = ~(total > eps)  # True for NaN, too
    probs = probs / total.masked_fill(negligible, 1.0).unsqueeze(-1)
    return -(probs * (probs + eps).log()).sum(dim=-1).masked_fill(negligible, 0.0)


def relative_entropy(logits: torch.Tensor, targets: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """Return entropy / log(number of wrong tokens with a probability above eps), (B, T) in [0, 1]; 0 for one token."""
    probs, total = _wrong_probs(logits, targets)
    probs = probs / (total + eps).unsqueeze(-1)
    count = (probs > eps).sum(dim=-1)
    relative = -(probs * (probs + eps).log()).sum(dim=-1) / count.clamp(min=2).to(probs.dtype).log()
    return relative.clamp(0.0, 1.0).masked_fill((count < 2) | (total <= eps), 0.0)


def _wrong_probs(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the probabilities (B, T, V), 0 for the targets, and their sums (B, T)."""
    indices = targets.clamp(0, logits.size(-1) - 1).unsqueeze(-1)
    probs = at_least_float32(logits).softmax(dim=-1).scatter(-1, indices, 0.0)
    return probs, probs.sum(dim=-1)
