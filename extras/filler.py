"""Filling of masked positions with the predictions of another run's unmasking model."""

from collections.abc import Mapping

import torch
from torch import nn

from extras.token_draw import draw_tokens
from loss_modifiers.judge import with_ids


class Filler:
    """Fills masked positions with tokens that a frozen unmasking model predicts, in one forward pass.

    model:      `model(ids (B, T)) -> (logits (B, T, V), _)`
    vocab_size: of the text; special tokens, with ids from here on, are never filled in
    sample:     draw from the `top_k` likeliest tokens at `temperature`; False takes the likeliest token
    renamed:    ids of this data set -> ids of the model, for tokens whose ids differ
    """

    def __init__(
        self,
        model: nn.Module,
        vocab_size: int,
        sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = 50,
        renamed: Mapping[int, int] | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.vocab_size = vocab_size
        self.sample = sample
        self.temperature = temperature
        self.top_k = top_k
        self.renamed = renamed or {}

    @torch.no_grad()
    def fill(self, ids: torch.Tensor, mask: torch.Tensor, seed: int) -> torch.Tensor:
        """Return the texts (B, T) with new tokens where the mask (B, T) is True. seed: of the draws, if `sample`"""
        logits = self.model(with_ids(ids, self.renamed))[0][..., : self.vocab_size]  # (B, T, V)
        if not self.sample:
            return ids.where(~mask, logits.argmax(dim=-1))
        # draws at every position: selecting the masked ones would wait for the device
        generator = torch.Generator(logits.device).manual_seed(seed)
        return ids.where(~mask, draw_tokens(logits, generator, self.temperature, self.top_k))
