"""Functions that both kinds of label smoothing use."""

import torch

from core.losses import mean_loss
from loss_modifiers.base import at_least_float32


def target_log_probs(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return log-probabilities (B, T, V), those of the targets (B, T), and the targets clamped to valid ids (B, T)."""
    indices = targets.clamp(0, logits.size(-1) - 1)
    log_probs = at_least_float32(logits).log_softmax(dim=-1)
    return log_probs, log_probs.gather(-1, indices.unsqueeze(-1)).squeeze(-1), indices


def id_mask(ids: tuple[int, ...], vocab_size: int, device: torch.device) -> torch.Tensor:
    """Return (V,) bool, True at the given ids; without a copy from the CPU, which would synchronise."""
    marks = torch.zeros(vocab_size, dtype=torch.bool, device=device)
    for number in ids:
        if 0 <= number < vocab_size:
            marks[number : number + 1] = True  # indexing one element would copy from the CPU
    return marks


def smoothing_metrics(
    loss: torch.Tensor, smoothed: torch.Tensor, mask: torch.Tensor, valid: torch.Tensor, factor: float
) -> dict[str, torch.Tensor]:
    """Return the metrics of label smoothing. valid (B, T): the positions of the mask that are not padding."""
    return {
        "original_loss": mean_loss(loss.detach(), mask),
        "smoothed_loss": mean_loss(smoothed.detach(), valid),
        "smoothing_factor": torch.tensor(factor),
        "valid_positions": valid.sum(),
        "total_positions": torch.tensor(mask.numel()),
    }
