"""Texts with gaps in them: what unmasking and sequence scoring learn from."""

from collections.abc import Callable, Mapping, Sequence

import torch

from data.masking import mask_one_at_least
from data.numbered_batches import Batch, NumberedBatches
from data.private_rng import generator
from data.stages import Stage, mask_rows
from data.vocabulary import Vocabulary
from data.windows import Windows

TRAINING, EVALUATION = {"train": 0}, {"train": 1, "val": 2}  # what a batch is for: part of its random seed


class MaskedText(NumberedBatches):
    """A data source of masked texts. A batch is a dict of tensors on the device:

    input  (B, T) int64: the text as the model sees it
    target (B, T) int64: the original token where one is to be predicted, -1 elsewhere
    stage  (B,) int64:   the stage that each sequence was masked by
    seed   () int64, on the CPU: for whoever draws something to go with this batch

    Training batch number n follows from the seed, the rank and n alone, whatever is evaluated in between. Evaluations
    see the same `eval_iters` batches of each split every time: of the validation data one fixed set, in which every
    validation stage has its share of the sequences.

    windows:         where the texts of each split come from
    corrupts:        leave 10 % of the masked positions as they are and replace 10 % by random tokens; else all of them
                     become the mask token
    untouched_share: so many of the validation sequences have no gap at all
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
        device: torch.device,
        newline_id: int | None = None,
        corrupts: bool = True,
        untouched_share: float = 0.0,
        reached: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(eval_iters, seed, rank, device)
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
        """Return training batch `number` of this rank."""
        return self._training_batch(TRAINING["train"], number)

    def evaluation_batch(self, split: str, number: int) -> Batch:
        """Return batch `number` of an evaluation: masked as in training, or of the fixed validation set."""
        return self._training_batch(EVALUATION["train"], number) if split == "train" else self._validation_batch(number)

    def _training_batch(self, purpose: int, number: int) -> Batch:
        draw = generator(self.seed, self.rank, purpose, number)
        tokens, lengths = self.windows["train"].draw(self.batch_size, draw)
        # stages take turns from batch to batch, so that each gets its share also where there are more stages than rows
        stages = self.training[: self.reached()] if self.reached else self.training
        first = number * self.batch_size
        turn = [(first + i) % len(stages) for i in range(len(stages))]
        inputs, mask, which = self._mask(tokens, [stages[i] for i in turn], draw, lengths)
        mask_one_at_least(inputs, mask, lengths, self.vocabulary.mask, draw)
        return self._batch(tokens, inputs, mask, torch.tensor(turn)[which], draw)

    def _validation_batch(self, number: int) -> Batch:
        draw = generator(self.seed, EVALUATION["val"], number)
        tokens, lengths = self.windows["val"].draw(self.batch_size, draw)
        rows = torch.arange(number * self.batch_size, (number + 1) * self.batch_size)
        stage = rows * len(self.validation) // (self.batch_size * self.eval_iters)  # (B,), in the order of the stages
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
        batch = {"input": inputs, "target": tokens.where(mask, -1), "stage": stage}
        return {**self.on_device(batch), "seed": torch.randint(2**62, (), generator=draw)}
