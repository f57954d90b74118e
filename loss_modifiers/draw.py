"""Sampling of tokens from logits."""

import torch

from loss_modifiers.base import at_least_float32

SMALLEST_DRAW = 2.0**-25  # half a step of a float32 draw: with a draw of 0 the token would always be chosen


def sampled(logits: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Return one token per position (...), sampled from softmax(logits). logits (..., V)"""
    # the Gumbel-max trick: unlike torch.multinomial it does not synchronise, and a NaN does not stop the GPU
    draws = torch.empty_like(logits, dtype=torch.float32).exponential_(generator=generator)
    return (at_least_float32(logits) - draws.clamp_(min=SMALLEST_DRAW).log_()).argmax(dim=-1)
