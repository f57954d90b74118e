"""Losses of one position or one sequence each, and the mean that is taken of them."""

import torch
from torch.nn import functional as F

SPLITS = ("train", "val")  # what an evaluation measures, in this order


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of every position (B, T), 0 where the target is -1. logits (B, T, V), targets (B, T)"""
    flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
    return flat.view_as(targets)


def mean_loss(loss: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean loss, a scalar; 0 if nothing counts.

    loss: (B, T) is averaged over the positions where the mask is True, (B,) over the sequences that have such positions
    mask: (B, T), or (B,) if a target belongs to a whole sequence
    """
    counts = mask if loss.dim() == mask.dim() else mask.any(dim=1)
    return loss.where(counts, 0).sum() / counts.sum().clamp(min=1)


def per_sequence(loss: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return (B,): each row's mean over its valid positions, 0 for a row without any; a loss of shape (B,) as it is."""
    if loss.dim() == 1:
        return loss
    return loss.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def all_finite(values: torch.Tensor) -> torch.Tensor:
    """Return a bool scalar on the device: every number is finite."""
    return torch.isfinite(values.detach()).all()
