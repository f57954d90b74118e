"""SequenceScorerProvider, batches for sequence scoring: rows partly written by a model, and the fraction of that."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from core.losses import SPLITS
from data.masking import content_mask
from data.stages import LineStage, Stage, StickyStage, rows_per_stage
from data.streaming.batch_file import StoredBatch
from data.streaming.char_text import CharText
from data.streaming.provider import Provider, cut_rows, schema

Fill = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
MODE = "sequence_scorer"
UNTOUCHED = 11  # with stages, one validation row of 11 is not changed


class SequenceScorerProvider(Provider):
    """Provider of rows of [CLS] and T - 1 tokens; the target (B,) is the fraction of the T - 1 that was replaced.

    fill:         `fill(tokens, mask, generator) -> tokens`, each (B, T - 1), writes characters where the mask is True;
                  tokens have [MASK] there
    stages:       stages of each split, used equally in each file. A sticky stage masks a ratio drawn for each file, the
                  larger of two draws below its own ratio. A line stage replaces lines by other lines of the split,
                  without `fill`. None masks each position with a probability drawn per row from
                  `mask_probability_range`
    line_aligned: True: rows of complete lines, filled up with [PAD], which is never replaced; False: rows from anywhere
    target:       function of the fraction; None: the fraction itself

    With stages, one validation row of 11 is not changed and has target 0.
    """

    def __init__(
        self,
        text: CharText,
        batch_size: int,
        block_size: int,
        fill: Fill,
        stages: Mapping[str, Sequence[Stage]] | None = None,
        *,
        mask_probability_range: tuple[float, float] = (0.1, 0.8),
        line_aligned: bool = True,
        target: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.text = text
        self.batch_size = batch_size
        self.fill = fill
        self.stages = stages
        self.mask_probability_range = mask_probability_range
        self.target = target
        self.windows = {split: text.windows(split, block_size - 1, line_aligned) for split in SPLITS}
        self.lines = {
            split: text.lines(split)
            for split in SPLITS
            if stages and any(isinstance(stage, LineStage) for stage in stages[split])
        }
        self.meta = {
            **text.meta(),
            "training_type": "SEQUENCE_SCORING",
            "batch_schema": schema(block_size, [], "float32"),
            "batch_size": batch_size,
            "block_size": block_size,
            "target_size": block_size,
        }

    def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
        rows = count * self.batch_size
        if self.stages is None:
            tokens, lengths = self.windows[split].draw(rows, generator)
            low, high = self.mask_probability_range
            probability = low + (high - low) * torch.rand(rows, 1, generator=generator)
            mask = torch.rand(tokens.shape, generator=generator) < probability
            tokens, mask = self._filled(tokens, mask & content_mask(tokens, lengths), generator)
            per_row = {}
        else:
            tokens, mask, stage = self._rows_by_stage(split, rows, generator)
            per_row = {"stage_index": stage}
        ratio = mask.sum(dim=1) / mask.shape[1]  # (B,)
        targets = ratio if self.target is None else self.target(ratio)
        inputs = torch.cat([torch.full((rows, 1), self.text.cls_id), tokens], dim=1)
        return cut_rows(inputs, targets, self.batch_size, MODE, masking_ratio=ratio.tolist(), **per_row)

    def _rows_by_stage(
        self, split: str, rows: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Return tokens and replaced positions, each (rows, T - 1), and the stage of each row, -1 if unchanged."""
        assert self.stages is not None
        stages = self.stages[split]
        untouched = rows // UNTOUCHED if split == "val" else 0
        tokens, lengths = self.windows[split].draw(rows, generator)
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        index = torch.full((rows,), -1)
        start = 0
        for number, (stage, size) in enumerate(zip(stages, rows_per_stage(rows - untouched, stages), strict=True)):
            part = slice(start, start + size)
            start += size
            index[part] = number
            if size and isinstance(stage, LineStage):
                tokens[part], mask[part] = self._other_lines(tokens[part], lengths[part], stage, split, generator)
            elif size:
                chosen = _with_drawn_ratio(stage, generator).mask(
                    tokens[part], generator, lengths=lengths[part], newline_id=self.text.newline_id
                )
                tokens[part], mask[part] = self._filled(tokens[part], chosen, generator)
        order = torch.randperm(rows, generator=generator)
        return tokens[order], mask[order], index[order].tolist()

    def _filled(
        self, tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens with the model's characters where the mask is True, and the mask."""
        hidden = tokens.masked_fill(mask, self.text.mask_id)
        pieces = zip(torch.split(hidden, self.batch_size), torch.split(mask, self.batch_size), strict=True)
        written = torch.cat([self.fill(rows, positions, generator) for rows, positions in pieces])
        return torch.where(mask, written, tokens), mask

    def _other_lines(
        self,
        tokens: torch.Tensor,
        lengths: torch.Tensor,
        stage: LineStage,
        split: str,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Replace the lines that the stage chooses by random lines of the split, cut to the row's length.

        Return the new tokens and the mask of replaced tokens, each (B, T - 1).
        """
        chosen = stage.mask(tokens, generator, lengths=lengths, newline_id=self.text.newline_id)
        lines, length = self.lines[split], tokens.shape[1]
        pads = [self.text.pad_id] * length
        new_tokens, new_mask = [], []
        for row, picked, size in zip(tokens.tolist(), chosen.tolist(), lengths.tolist(), strict=True):
            new_row: list[int] = []
            replaced: list[bool] = []
            start = 0
            for i in range(size):
                if row[i] == self.text.newline_id or i + 1 == size:
                    line = row[start : i + 1]
                    if picked[start]:
                        line = lines[int(torch.randint(len(lines), (1,), generator=generator))]
                    new_row += line
                    replaced += [picked[start]] * len(line)
                    start = i + 1
            new_tokens.append((new_row + pads)[:length])
            new_mask.append((replaced + [False] * length)[:length])
        return torch.tensor(new_tokens), torch.tensor(new_mask)


def _with_drawn_ratio(stage: Stage, generator: torch.Generator) -> Stage:
    """Return a sticky stage with the larger of two random ratios below its own; other stages unchanged."""
    if not isinstance(stage, StickyStage):
        return stage
    ratio = torch.rand(2, generator=generator).max().item() * stage.target_masked_ratio
    return dataclasses.replace(stage, target_masked_ratio=ratio)
