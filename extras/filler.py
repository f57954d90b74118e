"""Fills the gaps of masked texts with what another run's model finds likely."""

from collections.abc import Mapping

import torch
from torch import nn

from extras.token_draw import draw_tokens
from loss_modifiers.judge import with_ids


class Filler:
    """Fills masked positions with the tokens that a frozen unmasking model finds likely, all in one pass.

    model:       called as `model(ids (B, T)) -> (logits (B, T, V), _)`
    vocab_size:  of the text: only these tokens are filled in, never a special one
    sample:      draw from the `top_k` likeliest at `temperature`; else the likeliest is taken
    renamed:     token ids here, and what they are to the model, where that is another id
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
        """Return the texts (B, T) with what stood at the mask replaced. seed: of the draws, if there are any"""
        logits = self.model(with_ids(ids, self.renamed))[0][..., : self.vocab_size]  # (B, T, V)
        if not self.sample:
            return ids.where(~mask, logits.argmax(dim=-1))
        # a draw for every position: to draw for the masked alone, the host would wait for the device to count them
        generator = torch.Generator(logits.device).manual_seed(seed)
        return ids.where(~mask, draw_tokens(logits, generator, self.temperature, self.top_k))
