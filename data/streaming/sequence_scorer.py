"""Batches for sequence scoring: rows of text, partly written by a model, and the share that is."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from data.stages import LineStage, Stage, StickyStage, rows_per_stage
from data.streaming.batch_file import StoredBatch
from data.streaming.char_text import CharText
from data.streaming.provider import Provider, cut_rows, schema

Fill = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
MODE = "sequence_scorer"
UNTOUCHED = 11  # with stages, one validation row in so many is left as it was


class SequenceScorerProvider(Provider):
    """Rows of [CLS] and T - 1 tokens; the target (B,) is the share of the T - 1 that was replaced.

    fill:   `fill(tokens, mask, generator) -> tokens`, all (B, T - 1), writes characters where the mask is true;
        tokens have [MASK] there
    stages: by split, mixed in equal shares within each file. A sticky one masks a share drawn anew for each file, the
        larger of two draws up to its ratio; a line one puts other lines of the split in the place of some, unfilled.
        None masks each position with a probability drawn for each row from `mask_probability_range`
    line_aligned: rows of whole lines, the rest [PAD] and never replaced; else windows from anywhere
    target: of the share; None takes it as it is

    With stages, every eleventh row of validation is left as it was, with target 0: a tenth of the others.
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
        self.windows = {split: text.windows(split, block_size - 1, line_aligned) for split in ("train", "val")}
        self.lines = {
            split: text.lines(split)
            for split in ("train", "val")
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
        """Return `count` batches of a split."""
        rows = count * self.batch_size
        if self.stages is None:
            tokens, lengths = self.windows[split].draw(rows, generator)
            low, high = self.mask_probability_range
            odds = low + (high - low) * torch.rand(rows, 1, generator=generator)
            mask = torch.rand(tokens.shape, generator=generator) < odds
            tokens, mask = self._filled(tokens, mask & _content(tokens, lengths), generator)
            about = {}
        else:
            tokens, mask, stage = self._staged(split, rows, generator)
            about = {"stage_index": stage}
        share = mask.sum(dim=1) / mask.shape[1]  # (B,)
        targets = share if self.target is None else self.target(share)
        inputs = torch.cat([torch.full((rows, 1), self.text.cls_id), tokens], dim=1)
        ratio = share.tolist()
        return cut_rows(inputs, targets, self.batch_size, MODE, masking_ratio=ratio, **about)

    def _staged(
        self, split: str, rows: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Return tokens and what was replaced, each (rows, T - 1), and the stage of each row; -1 is untouched."""
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
                chosen = _weakened(stage, generator).mask(
                    tokens[part], generator, lengths=lengths[part], newline_id=self.text.newline_id
                )
                tokens[part], mask[part] = self._filled(tokens[part], chosen, generator)
        order = torch.randperm(rows, generator=generator)
        return tokens[order], mask[order], index[order].tolist()

    def _filled(
        self, tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Let the model write where the mask is true, some rows at a time."""
        hidden = tokens.masked_fill(mask, self.text.mask_id)
        pieces = zip(torch.split(hidden, self.batch_size), torch.split(mask, self.batch_size), strict=True)
        written = torch.cat([self.fill(some, where, generator) for some, where in pieces])
        return torch.where(mask, written, tokens), mask

    def _other_lines(
        self,
        tokens: torch.Tensor,
        lengths: torch.Tensor,
        stage: LineStage,
        split: str,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put lines from elsewhere in the split in the place of those that the stage picks; cut what gets too long."""
        chosen = stage.mask(tokens, generator, lengths=lengths, newline_id=self.text.newline_id)
        lines, length = self.lines[split], tokens.shape[1]
        pads = [self.text.pad_id] * length
        new_tokens, new_mask = [], []
        for row, picked, size in zip(tokens.tolist(), chosen.tolist(), lengths.tolist(), strict=True):
            out: list[int] = []
            replaced: list[bool] = []
            start = 0
            for place in range(size):
                if row[place] == self.text.newline_id or place + 1 == size:
                    line = row[start : place + 1]
                    if picked[start]:
                        line = lines[int(torch.randint(len(lines), (1,), generator=generator))]
                    out += line
                    replaced += [picked[start]] * len(line)
                    start = place + 1
            new_tokens.append((out + pads)[:length])
            new_mask.append((replaced + [False] * length)[:length])
        return torch.tensor(new_tokens), torch.tensor(new_mask)


def _weakened(stage: Stage, generator: torch.Generator) -> Stage:
    """Give a sticky stage the larger of two ratios drawn up to its own, so that the model sees small shares too."""
    if not isinstance(stage, StickyStage):
        return stage
    ratio = torch.rand(2, generator=generator).max().item() * stage.target_masked_ratio
    return dataclasses.replace(stage, target_masked_ratio=ratio)


def _content(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return torch.arange(tokens.shape[1]) < lengths[:, None]
