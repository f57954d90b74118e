"""Asking a frozen sequence scorer how much of a text a machine has filled in."""

from collections.abc import Callable

import torch

from loss_modifiers.base import widened

SMALLEST_DRAW = 2.0**-25  # half a step of a float32 draw: an exact 0 would choose its token for certain
Judge = Callable[[torch.Tensor], torch.Tensor]  # token ids (B, T') -> scores (B,)


@torch.no_grad()
def judged(judge: Judge, tokens: torch.Tensor, cls_token_id: int | None, block_size: int) -> torch.Tensor:
    """Return scores (B,) in [0, 1], float32. The CLS token goes in front; what is too long is cut at the end.

    cls_token_id: None for a judge that was trained without
    """
    if cls_token_id is not None:
        tokens = torch.cat([tokens.new_full((len(tokens), 1), cls_token_id), tokens], dim=1)
    return judge(tokens[:, :block_size]).float().clamp(0.0, 1.0)


def sampled(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return one token per position (B, T), drawn from softmax(logits)."""
    # Gumbel's way: unlike torch.multinomial it neither waits for the GPU nor brings it down over a NaN
    draws = torch.empty_like(logits, dtype=torch.float32).exponential_(generator=generator)
    return (widened(logits) - draws.clamp_(min=SMALLEST_DRAW).log_()).argmax(dim=-1)
