"""Continuing a prompt from left to right, as nanoGPT's sample.py does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from core.errors import ConfigError

if TYPE_CHECKING:
    from data.tokenizers import Tokenizer

SEPARATOR = "---------------"  # printed after each text


def continue_text(
    model: Any,
    tokenizer: Tokenizer,
    prompt: str,
    device: torch.device,
    *,
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
) -> Iterator[str]:
    """Yield `num_samples` continuations of the prompt, each with the prompt before it and a separator after it."""
    ids = torch.tensor(tokenizer.encode(prompt), dtype=torch.long, device=device)[None]  # (1, T)
    if not ids.numel():  # the model needs one position to continue
        raise ConfigError("--start is empty: give the model at least one character to continue")
    for _ in range(num_samples):
        written = model.generate(ids, max_new_tokens, temperature, top_k)  # (1, T + max_new_tokens)
        yield f"{tokenizer.decode(written[0].tolist())}\n{SEPARATOR}"
