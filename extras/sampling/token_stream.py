"""The tokens with which a model continues a text, one by one as they are sampled."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch


def stream_tokens(
    model: Any,
    prompt: Sequence[int],
    device: torch.device,
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
) -> Iterator[int]:
    """Yield `max_new_tokens` token ids: those that one call of `model.generate` draws for all of them.

    model:  has nanoGPT's `generate(ids (1, T), max_new_tokens, temperature, top_k) -> ids (1, T + max_new_tokens)`,
            which crops its context to the block_size
    prompt: token ids, at least one
    """
    ids = torch.tensor(prompt, dtype=torch.long, device=device)[None]  # (1, T)
    for _ in range(max_new_tokens):
        ids = model.generate(ids, 1, temperature, top_k)  # (1, T + 1)
        yield int(ids[0, -1])
