"""MaskedProvider, batches for unmasking: rows with masked positions, and the original tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from core.errors import ConfigError
from core.losses import SPLITS
from data.masking import mask_one_at_least
from data.stages import Stage, UniformStage, check_stages, create_stage_objects, mask_rows
from data.streaming.batch_file import StoredBatch
from data.streaming.char_text import CharText
from data.streaming.provider import Provider, cut_rows, schema

MODE = "language_model"  # model_mode of batches with a target per position


def stages_by_split(
    use_all_stages_for_training: bool | None,
    unmasking_stages: Sequence[Mapping[str, Any]] | None,
    validation_stages: Sequence[Mapping[str, Any]] | None,
    block_size: int,
    has_newline: bool = True,
) -> dict[str, Sequence[Stage]] | None:
    """Return the stages of each split, or None if `use_all_stages_for_training` is None.

    block_size:  tokens of the rows to mask
    has_newline: whether the vocabulary has a newline

    Raises ConfigError for stages that are wrong, missing, or do not fit the rows, and for the value False.
    """
    given = {"unmasking_stages": unmasking_stages, "validation_stages": validation_stages}
    made = {name: create_stage_objects(dicts, name) for name, dicts in given.items()}
    if use_all_stages_for_training is None:
        return None
    if not use_all_stages_for_training:
        raise ConfigError(
            "use_all_stages_for_training=False: a queue always mixes all stages; set it to True, or remove the option"
        )
    for name, stages in made.items():
        if not stages:
            raise ConfigError(f"use_all_stages_for_training=True needs {name}: a list of one or more stages")
        check_stages(stages, block_size, has_newline=has_newline, where=name)
    return {"train": made["unmasking_stages"], "val": made["validation_stages"]}


class MaskedProvider(Provider):
    """Provider of rows with masked positions; the target is the original there, and `ignore_index` elsewhere.

    stages:       stages of each split, used equally in each file; None masks each position with `mask_probability`
    line_aligned: True: rows of complete lines, filled up with [PAD], which is never masked; False: rows from anywhere
    """

    def __init__(
        self,
        text: CharText,
        batch_size: int,
        block_size: int,
        stages: Mapping[str, Sequence[Stage]] | None = None,
        *,
        mask_probability: float = 0.15,
        line_aligned: bool = True,
        ignore_index: int = -100,
    ) -> None:
        self.text = text
        self.batch_size = batch_size
        self.ignore_index = ignore_index
        self.staged = stages is not None
        self.stages: Mapping[str, Sequence[Stage]]
        self.stages = stages or {split: [UniformStage(mask_probability)] for split in SPLITS}
        self.windows = {split: text.windows(split, block_size, line_aligned) for split in SPLITS}
        self.meta = {
            **text.meta(),
            "training_type": "MLM",
            "largest_token_id": text.largest_id(line_aligned),
            "mask_probability": mask_probability,
            "ignore_index": ignore_index,
            "batch_schema": schema(block_size, [block_size]),
            "batch_size": batch_size,
            "block_size": block_size,
            "target_size": block_size,
        }

    def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
        tokens, lengths = self.windows[split].draw(count * self.batch_size, generator)
        inputs, mask, stage = mask_rows(
            tokens,
            self.stages[split],
            generator,
            mask_token_id=self.text.mask_id,
            vocab_size=self.text.base_size,
            newline_id=self.text.newline_id,
            lengths=lengths,
        )
        order = torch.randperm(len(tokens), generator=generator)  # mix the stages: `mask_rows` returns them in order
        tokens, inputs, mask, lengths = tokens[order], inputs[order], mask[order], lengths[order]
        for start in range(0, len(tokens), self.batch_size):
            batch = slice(start, start + self.batch_size)
            mask_one_at_least(inputs[batch], mask[batch], lengths[batch], self.text.mask_id, generator)
        targets = tokens.masked_fill(~mask, self.ignore_index)
        per_row = {"stage_index": stage[order].tolist()} if self.staged else {}
        return cut_rows(inputs, targets, self.batch_size, MODE, **per_row)
