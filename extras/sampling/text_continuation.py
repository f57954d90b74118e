"""Continuing a prompt from left to right, as nanoGPT's sample.py does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from core.model_initializer import require_method

if TYPE_CHECKING:
    from data.tokenizers import Tokenizer

SEPARATOR = "---------------"  # printed after each text


def continue_text(
    model: Any,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    device: torch.device,
    *,
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
) -> Iterator[str]:
    """Yield `num_samples` continuations of the prompt, each with the prompt before it and a separator after it.

    prompt: token ids, at least one
    """
    require_method(model, "generate", "sampling")
    ids = torch.tensor(prompt, dtype=torch.long, device=device)[None]  # (1, T)
    for _ in range(num_samples):
        written = model.generate(ids, max_new_tokens, temperature, top_k)  # (1, T + max_new_tokens)
        yield f"{tokenizer.decode(written[0].tolist())}\n{SEPARATOR}"
