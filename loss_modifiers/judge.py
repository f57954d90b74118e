"""Judge: a frozen sequence scorer that estimates how much of a text a model has filled in."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from loss_modifiers.sequence_target import sequence_scorer_target_transform


class Judge:
    """A frozen sequence scorer as a function from token ids (B, T) to scores (B,).

    model:        called as `model(ids (B, T')) -> (scores (B,), _)`, in evaluation mode
    cls_token_id: put in front of every text; None for a scorer that was trained without it
    block_size:   maximum length with that token; longer texts are cut at the end
    transformed:  True: the scorer was trained on transformed fractions; False: on the fractions themselves
    renamed:      our ids of tokens that have another id in the scorer's vocabulary, and those other ids
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
        """Return scores (B,) in [0, 1], float32; a higher score means that more of the text looks filled in."""
        tokens = with_ids(tokens, self.renamed)
        if self.cls_token_id is not None:
            tokens = torch.cat([tokens.new_full((len(tokens), 1), self.cls_token_id), tokens], dim=1)
        scores: torch.Tensor = self.model(tokens[:, : self.block_size])[0]
        return scores.float().clamp(0.0, 1.0)

    def expected(self, fractions: torch.Tensor) -> torch.Tensor:
        """Return the target scores (B,) of texts in which these fractions (B,) are filled in."""
        return sequence_scorer_target_transform(fractions) if self.transformed else fractions


def with_ids(tokens: torch.Tensor, renamed: Mapping[int, int]) -> torch.Tensor:
    """Return the tokens in another model's ids. renamed: our ids of tokens with another id there, and those ids"""
    found = tokens
    for ours, theirs in renamed.items():
        found = found.where(tokens != ours, theirs)
    return found
