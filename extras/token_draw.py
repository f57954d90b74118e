"""Drawing of tokens with temperature, top_k and top_p."""

import torch

from loss_modifiers.draw import sampled


def draw_tokens(
    logits: torch.Tensor,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> torch.Tensor:
    """Return a token (...) drawn for each row of logits (..., V), without waiting for the device.

    generator:   on the device of the logits
    temperature: the logits are divided by it
    top_k:       draw among the k likeliest tokens; None: among all
    top_p:       of these, draw among the fewest tokens that together have at least the probability p
    """
    logits = logits.float() / temperature
    if top_k is None and top_p == 1:
        return sampled(logits, generator)
    size = logits.size(-1)
    values, tokens = logits.topk(min(top_k or size, size), sorted=True)  # in descending order
    shares = values.softmax(dim=-1)
    likelier = shares.cumsum(dim=-1) - shares  # total probability of the likelier tokens: 0 for the first
    values = values.masked_fill(likelier >= top_p, float("-inf"))
    return tokens.gather(-1, sampled(values, generator)[..., None])[..., 0]
