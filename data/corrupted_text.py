"""CorruptedText, the data source of token classification: texts with randomly replaced tokens."""

from collections.abc import Mapping
from typing import Any

import torch

from data.masking import content_mask, corruption_rate, replace_random
from data.numbered_batches import EVALUATION, TRAINING, Batch, NumberedBatches
from data.private_rng import generator
from data.windows import Windows


class CorruptedText(NumberedBatches):
    """A data source of texts in which some tokens are replaced at random. A batch is a dict of tensors:

    input  (B, T) int64: the text, corrupted
    target (B, T) int64: 1 where a token was replaced, 0 elsewhere, -1 in padding

    Training batch n depends on the seed, the rank, n and the iteration: the replaced fraction grows over the first
    `warmup_iters` iterations. Every evaluation gets the same `eval_iters` batches of each split, corrupted as in
    iteration `eval_at`.

    unmasked_min, unmasked_max: fraction of tokens that are kept, after the warm-up and at iteration 0
    p1_p2_ratio:                how clustered the replacements are, see `replace_random`
    """

    def __init__(
        self,
        windows: Mapping[str, Windows],
        vocab_size: int,
        *,
        unmasked_min: float,
        unmasked_max: float,
        warmup_iters: int,
        p1_p2_ratio: float,
        eval_at: int,
        batch_size: int,
        eval_iters: int,
        seed: int,
        rank: int,
    ) -> None:
        super().__init__(eval_iters, seed, rank)
        self.windows = windows
        self.vocab_size = vocab_size
        self.unmasked_min = unmasked_min
        self.unmasked_max = unmasked_max
        self.warmup_iters = warmup_iters
        self.p1_p2_ratio = p1_p2_ratio
        self.eval_at = eval_at
        self.batch_size = batch_size
        self.iter_num = 0  # set before each update; a batch drawn during an update belongs to the next one

    def training_batch(self, number: int) -> Batch:
        return self._batch("train", self.iter_num, generator(self.seed, self.rank, TRAINING, number))

    def evaluation_batch(self, split: str, number: int) -> Batch:
        return self._batch(split, self.eval_at, generator(self.seed, EVALUATION[split], number))

    def _batch(self, split: str, iter_num: int, draw: torch.Generator) -> Batch:
        tokens, lengths = self.windows[split].draw(self.batch_size, draw)
        rate = corruption_rate(iter_num, self.unmasked_min, self.unmasked_max, self.warmup_iters)
        inputs, changed = replace_random(tokens, rate, self.p1_p2_ratio, self.vocab_size, draw, lengths)
        return {"input": inputs, "target": changed.long().where(content_mask(tokens, lengths), -1)}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "iter_num": self.iter_num}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.iter_num = state["iter_num"]
