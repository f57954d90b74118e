"""StickyRoundsProvider, batches for unmasking in which a row appears several times with more and more masks."""

import torch

from core.losses import SPLITS
from data.masking import content_mask, corrupt, next_to_masked
from data.streaming.batch_file import StoredBatch
from data.streaming.char_text import CharText
from data.streaming.masked import MODE
from data.streaming.provider import Provider, cut_rows, schema


class StickyRoundsProvider(Provider):
    """Provider that masks each row of text in `max_rounds` rounds; each round gives one row of the batch.

    A round masks each position with probability p2 if a neighbour is masked, else with p1, and at least one position.
    Newly masked positions are corrupted once (80 % [MASK], 10 % a random character, 10 % unchanged). The target is the
    original character at all positions masked so far, and `ignore_index` elsewhere.
    """

    def __init__(
        self,
        text: CharText,
        batch_size: int,
        block_size: int,
        *,
        p1_probability: float = 0.15,
        p2_probability: float = 0.5,
        max_rounds: int = 3,
        line_aligned: bool = True,
        ignore_index: int = -100,
    ) -> None:
        self.text = text
        self.batch_size = batch_size
        self.p1_probability = p1_probability
        self.p2_probability = p2_probability
        self.max_rounds = max_rounds
        self.ignore_index = ignore_index
        self.windows = {split: text.windows(split, block_size, line_aligned) for split in SPLITS}
        self.meta = {
            **text.meta(),
            "training_type": "MLM",
            "largest_token_id": text.largest_id(line_aligned),
            "ignore_index": ignore_index,
            "sticky_p1_probability": p1_probability,
            "sticky_p2_probability": p2_probability,
            "max_rounds": max_rounds,
            "batch_schema": schema(block_size, [block_size]),
            "batch_size": batch_size,
            "block_size": block_size,
            "target_size": block_size,
        }

    def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
        per_batch = -(-self.batch_size // self.max_rounds)  # rows of text per batch, rounded up
        tokens, lengths = self.windows[split].draw(count * per_batch, generator)
        current, mask = tokens, torch.zeros_like(tokens, dtype=torch.bool)
        inputs, targets = [], []
        for _ in range(self.max_rounds):
            new = self._newly_masked(mask, lengths, generator)
            corrupted = corrupt(tokens, new, self.text.mask_id, self.text.base_size, generator)
            current, mask = torch.where(new, corrupted, current), mask | new
            inputs.append(current)
            targets.append(tokens.masked_fill(~mask, self.ignore_index))
        # (count, per_batch, rounds, T): the rounds of a row are consecutive; surplus rows of a batch are cut off
        shape = (count, per_batch * self.max_rounds, -1)
        both = [
            torch.stack(rounds, dim=1).view(shape)[:, : self.batch_size].flatten(0, 1) for rounds in (inputs, targets)
        ]
        rounds = [row % self.max_rounds for row in range(self.batch_size)] * count
        return cut_rows(both[0], both[1], self.batch_size, MODE, round_index=rounds)

    def _newly_masked(self, mask: torch.Tensor, lengths: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the positions (B, T) that the next round masks. mask (B, T): those of the rounds before."""
        free = ~mask & content_mask(mask, lengths)
        probability = torch.where(next_to_masked(mask), self.p2_probability, self.p1_probability)
        excess = torch.rand(mask.shape, generator=generator) - probability
        new = free & (excess < 0)
        # a row in which no draw succeeded masks the position with the closest draw; a fully masked row does not change
        nearest = excess.masked_fill(~free, torch.inf).argmin(dim=1, keepdim=True)
        forced = torch.zeros_like(mask).scatter_(1, nearest, ~new.any(dim=1, keepdim=True))
        return new | (forced & free)
