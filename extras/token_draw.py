"""Drawing of tokens with temperature, top_k and top_p."""

import torch

from loss_modifiers.draw import sampled

SMALLEST_TEMPERATURE = 1e-35  # of logits up to 1,000


def draw_tokens(
    logits: torch.Tensor,
    generator: torch.Generator | None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> torch.Tensor:
    """Return a token (...) drawn for each row of logits (..., V), without waiting for the device.

    generator:   on the device of the logits; None: torch's own
    temperature: the logits are divided by it; 0: the likeliest token
    top_k:       draw among the k likeliest tokens; None or 0: among all
    top_p:       of these, draw among the fewest tokens that together have at least the probability p
    """
    logits = logits.float()
    if temperature < SMALLEST_TEMPERATURE:  # the quotient would overflow
        return logits.argmax(dim=-1)
    logits = logits / temperature
    if not top_k and top_p == 1:
        return sampled(logits, generator)
    size = logits.size(-1)
    values, tokens = logits.topk(min(top_k or size, size), sorted=True)  # in descending order
    shares = values.softmax(dim=-1)
    likelier = shares.cumsum(dim=-1) - shares  # total probability of the likelier tokens: 0 for the first
    values = values.masked_fill(likelier >= top_p, float("-inf"))
    return tokens.gather(-1, sampled(values, generator)[..., None])[..., 0]
