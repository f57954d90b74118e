"""Continues a prompt with a language model, as nanoGPT's sample.py does."""

from typing import Any

import torch

from core.errors import ConfigError
from extras.sampling.painted_text import Decode

SEPARATOR = "---------------"  # nanoGPT's, between samples


def continue_text(
    model: Any,
    ids: torch.Tensor,
    decode: Decode,
    *,
    num_samples: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
) -> None:
    """Print `num_samples` continuations of a prompt. ids: (T,) token ids, at least one"""
    if not ids.numel():  # the model needs one position to continue
        raise ConfigError("--start is empty: give the model at least one character to continue")
    for _ in range(num_samples):
        written = model.generate(ids[None], max_new_tokens, temperature, top_k)
        print(decode(written[0].tolist()), SEPARATOR, sep="\n", flush=True)
