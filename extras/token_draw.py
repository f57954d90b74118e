"""Drawing tokens among the likeliest."""

import torch

from loss_modifiers.draw import sampled


def draw_tokens(
    logits: torch.Tensor,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> torch.Tensor:
    """Return a token (...) for each row of logits (..., V), without waiting for the device.

    temperature:  below 1 the draws are more predictable, above 1 more varied
    top_k, top_p: draw among the k likeliest, and of those among the fewest that together have the probability p
    generator:    on the logits' device
    """
    logits = logits.float() / temperature
    if top_k is None and top_p == 1:
        return sampled(logits, generator)
    size = logits.size(-1)
    values, tokens = logits.topk(min(top_k or size, size), sorted=True)  # the likeliest first
    shares = values.softmax(dim=-1)
    likelier = shares.cumsum(dim=-1) - shares  # what the tokens before have together: 0 for the first
    values = values.masked_fill(likelier >= top_p, float("-inf"))
    return tokens.gather(-1, sampled(values, generator)[..., None])[..., 0]
