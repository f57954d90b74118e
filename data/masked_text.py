"""MaskedText, the data source of unmasking and sequence scoring: texts with masked positions."""

from collections.abc import Callable, Mapping, Sequence

import torch

from data.masking import mask_one_at_least
from data.numbered_batches import EVALUATION, TRAINING, Batch, NumberedBatches
from data.private_rng import generator
from data.stages import Stage, mask_rows
from data.vocabulary import Vocabulary
from data.windows import Windows


class MaskedText(NumberedBatches):
    """A data source of masked texts. A batch is a dict of tensors:

    input  (B, T) int64: the text, masked
    target (B, T) int64: the original token at masked positions, -1 elsewhere
    stage  (B,) int64:   index of the stage that masked each sequence
    seed   () int64:     a random seed for further draws that belong to this batch

    Training batch n depends only on the seed, the rank and n. Every evaluation gets the same `eval_iters` batches of
    each split; those of `val` are one fixed set, divided evenly among the validation stages.

    windows:         the texts of each split
    corrupts:        True: 80 % of the masked positions become the mask token, 10 % a random token, 10 % keep theirs;
                     False: all become the mask token
    untouched_share: fraction of the validation sequences that are not masked
    reached:         `reached()` returns how many of the training stages are in use, from the first on; None: all
    """

    def __init__(
        self,
        windows: Mapping[str, Windows],
        vocabulary: Vocabulary,
        training: Sequence[Stage],
        validation: Sequence[Stage],
        *,
        batch_size: int,
        eval_iters: int,
        seed: int,
        rank: int,
        newline_id: int | None = None,
        corrupts: bool = True,
        untouched_share: float = 0.0,
        reached: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(eval_iters, seed, rank)
        self.windows = windows
        self.vocabulary = vocabulary
        self.training = list(training)
        self.validation = list(validation)
        self.reached = reached
        self.batch_size = batch_size
        self.newline_id = newline_id
        self.corrupts = corrupts
        self.untouched_share = untouched_share

    def training_batch(self, number: int) -> Batch:
        return self._training_batch(TRAINING, number)

    def evaluation_batch(self, split: str, number: int) -> Batch:
        return self._training_batch(EVALUATION["train"], number) if split == "train" else self._validation_batch(number)

    def _training_batch(self, purpose: int, number: int) -> Batch:
        draw = generator(self.seed, self.rank, purpose, number)
        tokens, lengths = self.windows["train"].draw(self.batch_size, draw)
        # each batch starts with another stage, so that all are used equally even if there are more stages than rows
        stages = self.training[: self.reached()] if self.reached else self.training
        first = number * self.batch_size
        order = [(first + i) % len(stages) for i in range(len(stages))]
        inputs, mask, index = self._mask(tokens, [stages[i] for i in order], draw, lengths)
        mask_one_at_least(inputs, mask, lengths, self.vocabulary.mask, draw)
        return self._batch(tokens, inputs, mask, torch.tensor(order)[index], draw)

    def _validation_batch(self, number: int) -> Batch:
        draw = generator(self.seed, EVALUATION["val"], number)
        tokens, lengths = self.windows["val"].draw(self.batch_size, draw)
        rows = torch.arange(number * self.batch_size, (number + 1) * self.batch_size)
        stage = rows * len(self.validation) // (self.batch_size * self.eval_iters)  # (B,), ascending
        parts = [
            self._mask(tokens[stage == i], [self.validation[i]], draw, lengths[stage == i])[:2]
            for i in sorted(set(stage.tolist()))
        ]
        inputs, mask = (torch.cat(part) for part in zip(*parts, strict=True))
        mask_one_at_least(inputs, mask, lengths, self.vocabulary.mask, draw)
        untouched = (rows * self.untouched_share).floor() < ((rows + 1) * self.untouched_share).floor()
        mask &= ~untouched[:, None]
        return self._batch(tokens, inputs.where(mask, tokens), mask, stage, draw)

    def _mask(
        self, tokens: torch.Tensor, stages: Sequence[Stage], draw: torch.Generator, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inputs, mask, stage = mask_rows(
            tokens, stages, draw, mask_token_id=self.vocabulary.mask, vocab_size=self.vocabulary.text,
            newline_id=self.newline_id, lengths=lengths,
        )  # fmt: skip
        return inputs if self.corrupts else tokens.masked_fill(mask, self.vocabulary.mask), mask, stage

    def _batch(
        self, tokens: torch.Tensor, inputs: torch.Tensor, mask: torch.Tensor, stage: torch.Tensor, draw: torch.Generator
    ) -> Batch:
        seed = torch.randint(2**62, (), generator=draw)
        return {"input": inputs, "target": tokens.where(mask, -1), "stage": stage, "seed": seed}
