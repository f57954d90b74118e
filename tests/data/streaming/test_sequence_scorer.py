"""data/streaming/sequence_scorer.py: the target is the share that the model, or other lines, have replaced."""

from typing import Any

import pytest
import torch

from data.stages import create_stage_objects
from data.streaming.char_text import CharText
from data.streaming.sequence_scorer import SequenceScorerProvider

MARK = 1000  # what the filler of these tests writes: an id that no text has
STICKY = {"type": "sticky", "target_masked_ratio": 0.8, "p1_probability": 0.2, "p2_probability": 0.5}
LINE = {"type": "line", "min_ratio": 0.3, "max_ratio": 0.3}
RANDOM = {"type": "random", "max_masked_ratio": 0.5}
T = 33


def provider(text: CharText, stages: list[Any] | None = None, **options: Any) -> SequenceScorerProvider:
    def fill(tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        assert tokens.shape == mask.shape == (min(4, len(tokens)), T - 1)
        assert torch.equal(tokens == text.mask_id, mask)
        return torch.full_like(tokens, MARK)

    made = stages and create_stage_objects(stages, "validation_stages")
    return SequenceScorerProvider(text, 4, T, fill, made and {"train": made, "val": made}, **options)


def whole_file(source: SequenceScorerProvider, split: str = "train", count: int = 22) -> tuple[Any, Any, Any]:
    batches = source.batches(split, count, torch.Generator().manual_seed(5))
    assert len(batches) == count
    inputs, targets = (torch.cat([batch.tensors[name] for batch in batches]) for name in ("input", "target"))
    return inputs, targets, [stage for batch in batches for stage in batch.metadata.get("stage_index", [])]


@pytest.mark.parametrize("line_aligned", [True, False])
def test_the_target_is_the_share_that_was_replaced(text: CharText, line_aligned: bool) -> None:
    inputs, targets, stage = whole_file(provider(text, line_aligned=line_aligned))

    assert inputs.shape == (88, T) and targets.shape == (88,) and targets.dtype == torch.float32
    assert (inputs[:, 0] == text.cls_id).all() and stage == []
    assert torch.allclose(targets, (inputs == MARK).sum(dim=1) / (T - 1))
    if not line_aligned:
        assert abs(targets.mean().item() - 0.45) < 0.1 and targets.min() < 0.3 and targets.max() > 0.6


def test_a_narrow_range_of_shares_is_kept_to(text: CharText) -> None:
    _, targets, _ = whole_file(provider(text, mask_probability_range=(1.0, 1.0), line_aligned=False))

    assert (targets == 1).all()


def test_the_target_may_be_a_function_of_the_share(text: CharText) -> None:
    plain, bent = (whole_file(provider(text, target=target))[1] for target in (None, torch.sqrt))

    assert torch.allclose(bent, plain.sqrt()) and not torch.allclose(bent, plain)


def test_stages_share_the_rows_of_training(text: CharText) -> None:
    inputs, targets, stage = whole_file(provider(text, [RANDOM, STICKY, RANDOM]))

    assert sorted(stage) == [0] * 30 + [1] * 29 + [2] * 29
    assert torch.allclose(targets, (inputs == MARK).sum(dim=1) / (T - 1))


def test_a_tenth_of_validation_is_untouched_in_every_stage(text: CharText) -> None:
    inputs, targets, stage = whole_file(provider(text, [RANDOM, STICKY]), "val")

    assert [stage.count(number) for number in (-1, 0, 1)] == [8, 40, 40]
    untouched = torch.tensor(stage) == -1
    assert (targets[untouched] == 0).all() and not (inputs[untouched] == MARK).any()
    assert stage != sorted(stage)


def test_a_sticky_stage_masks_one_share_per_file(text: CharText) -> None:
    source = provider(text, [STICKY], line_aligned=False)
    shares = []
    for seed in range(40):
        batches = source.batches("train", 2, torch.Generator().manual_seed(seed))
        found = {round(value, 6) for batch in batches for value in batch.tensors["target"].tolist()}
        assert len(found) == 1
        shares += found
    assert len(set(shares)) > 10
    assert max(shares) <= 26 / 32 and abs(sum(shares) / 40 - 0.8 * 2 / 3) < 0.12  # the larger of two draws


def test_lines_are_replaced_by_lines_of_the_split(text: CharText) -> None:
    inputs, targets, _ = whole_file(provider(text, [LINE]))
    length = T - 1
    lines = {str(line) for line in text.lines("train")}

    assert not (inputs == MARK).any()
    shares = (targets * length).round().long()
    assert (shares > 0).all()
    for row in inputs[:, 1:].tolist():
        kept = [token for token in row if token != text.pad_id]
        pieces, start = [], 0
        for place, token in enumerate(kept):
            if token == text.newline_id:
                pieces.append(str(kept[start : place + 1]))
                start = place + 1
        assert all(piece in lines or piece == str([text.newline_id]) for piece in pieces)


def test_meta_says_what_a_trainer_needs(text: CharText) -> None:
    meta = provider(text).meta

    assert meta["training_type"] == "SEQUENCE_SCORING" and meta["cls_token_id"] == text.cls_id
    assert [(entry["dtype"], entry["shape"]) for entry in meta["batch_schema"]] == [("int64", [T]), ("float32", [])]


def test_files_of_fewer_rows_than_stages_leave_some_out(text: CharText) -> None:
    inputs, _, stage = whole_file(provider(text, [STICKY, STICKY, STICKY, STICKY, LINE]), count=1)

    assert len(inputs) == 4 and sorted(stage) == [0, 1, 2, 3]
