"""Drawing tokens from what a model says of them."""

import torch

from loss_modifiers.base import widened

SMALLEST_DRAW = 2.0**-25  # half a step of a float32 draw: an exact 0 would choose its token for certain


def sampled(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return one token per position (...), drawn from softmax(logits (..., V))."""
    # Gumbel's way: unlike torch.multinomial it neither waits for the GPU nor brings it down over a NaN
    draws = torch.empty_like(logits, dtype=torch.float32).exponential_(generator=generator)
    return (widened(logits) - draws.clamp_(min=SMALLEST_DRAW).log_()).argmax(dim=-1)
