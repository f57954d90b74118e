"""Asking a frozen sequence scorer how much of a text a machine has filled in."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from loss_modifiers.sequence_target import sequence_scorer_target_transform


class Judge:
    """A frozen sequence scorer as a function of texts: token ids (B, T) to scores (B,).

    model:        called as `model(ids (B, T')) -> (scores (B,), _)`, in evaluation mode
    cls_token_id: goes in front of every text; None for a scorer that was trained without
    block_size:   what is longer, with that token, is cut at the end
    transformed:  it was trained on transformed shares, else on the shares themselves
    renamed:      token ids here, and what they are to the model, where that is another id
    """

    def __init__(
        self,
        model: Callable[[torch.Tensor], Any],
        cls_token_id: int | None,
        block_size: int,
        transformed: bool = False,
        renamed: Mapping[int, int] | None = None,
    ) -> None:
        self.model = model
        self.cls_token_id = cls_token_id
        self.block_size = block_size
        self.transformed = transformed
        self.renamed = renamed or {}

    @torch.no_grad()
    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return scores (B,) in [0, 1], float32: the higher, the more of the text looks filled in."""
        tokens = with_ids(tokens, self.renamed)
        if self.cls_token_id is not None:
            tokens = torch.cat([tokens.new_full((len(tokens), 1), self.cls_token_id), tokens], dim=1)
        scores: torch.Tensor = self.model(tokens[:, : self.block_size])[0]
        return scores.float().clamp(0.0, 1.0)

    def expected(self, shares: torch.Tensor) -> torch.Tensor:
        """Return the scores (B,) that it was trained to give texts of which these shares (B,) are filled in."""
        return sequence_scorer_target_transform(shares) if self.transformed else shares


def with_ids(tokens: torch.Tensor, renamed: Mapping[int, int]) -> torch.Tensor:
    """Return the tokens with the ids that another model has for some of them."""
    found = tokens
    for ours, theirs in renamed.items():
        found = found.where(tokens != ours, theirs)
    return found
