"""Masked texts: reproducible batches, the fixed validation set, and rows per stage."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.masked_text import MaskedText
from data.stages import RandomStage, SpanStage, Stage, StickyStage, UniformStage
from data.vocabulary import Vocabulary
from data.windows import Windows

LENGTH, TEXT = 8, 17
WORDS = Vocabulary.beyond(TEXT)
STICKY, RANDOM, SPAN = StickyStage(0.5, 0.3, 0.5, 2), RandomStage(0.9, 2), SpanStage(2, 2)
HALF = UniformStage(0.5)


@pytest.fixture
def windows(tiny_bins: Path) -> dict[str, Windows]:
    return {split: Windows(tiny_bins / f"{split}.bin", LENGTH) for split in ("train", "val")}


def source(windows: dict[str, Windows], *training: Stage, **changes: Any) -> MaskedText:
    """Return a data source of batches of 4; all stages are in use, in training and in validation."""
    stages = list(training or [HALF])
    settings: dict[str, Any] = dict(
        validation=stages, batch_size=4, eval_iters=3, seed=1, rank=0,
    )  # fmt: skip
    validation = changes.pop("validation", stages)
    settings = {**settings, **changes}
    settings.pop("validation")
    return MaskedText(windows, WORDS, stages, validation, **settings)


def batches(data: MaskedText, count: int, split: str = "train") -> list[dict[str, torch.Tensor]]:
    return [data.get_batch(split) for _ in range(count)]


def same(one: Any, other: Any) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


# content of a batch


def test_a_batch_is_a_masked_text_its_targets_and_a_seed(windows: dict[str, Windows], tiny_bins: Path) -> None:
    text = np.fromfile(tiny_bins / "train.bin", np.uint16).astype(np.int64)
    crops = {tuple(text[start : start + LENGTH]) for start in range(len(text) - LENGTH + 1)}
    for batch in batches(source(windows, HALF), 20):
        inputs, targets = batch["input"], batch["target"]
        assert inputs.shape == targets.shape == (4, LENGTH) and inputs.dtype == targets.dtype == torch.int64
        original = targets.where(targets >= 0, inputs)
        assert {tuple(row) for row in original.tolist()} <= crops
        changed = inputs != original
        assert (targets[changed] >= 0).all() and ((inputs[changed] == WORDS.mask) | (inputs[changed] < TEXT)).all()
        assert batch["stage"].tolist() == [0] * 4
        assert batch["seed"].shape == () and batch["seed"].dtype == torch.int64


def test_corruption_is_80_10_10_or_all_mask_tokens(windows: dict[str, Windows]) -> None:
    shares = {}
    for corrupts in (True, False):
        drawn = batches(source(windows, HALF, corrupts=corrupts, batch_size=64), 20)
        inputs, targets = (torch.cat([batch[name] for batch in drawn]) for name in ("input", "target"))
        gaps = targets >= 0
        shares[corrupts] = (inputs[gaps] == WORDS.mask).float().mean().item()
        assert gaps.float().mean().item() == pytest.approx(0.5, abs=3 * (0.25 / gaps.numel()) ** 0.5)

    assert shares[True] == pytest.approx(0.8, abs=3 * (0.16 / (gaps.sum().item())) ** 0.5)
    assert shares[False] == 1.0


def test_random_replacements_are_text(windows: dict[str, Windows]) -> None:
    drawn = batches(source(windows, HALF, batch_size=64), 20)

    seen = {token for batch in drawn for token in batch["input"].flatten().tolist()}

    assert seen <= {*range(TEXT), WORDS.mask}


# reproducible batches


def test_training_batch_n_follows_from_seed_rank_and_n_alone(windows: dict[str, Windows]) -> None:
    first = batches(source(windows), 5)
    torch.manual_seed(99)
    again = source(windows)
    torch.rand(7)
    second = [again.get_batch("train")]
    again.get_batch("val")  # evaluations in between, one of them not finished
    batches(again, 3, "val")
    again.get_eval_batch("train")
    second += batches(again, 4)

    assert same(first, second)
    assert not any(same([a], [b]) for i, a in enumerate(first) for b in first[:i])
    for other in (source(windows, seed=2), source(windows, rank=1)):
        assert not any(same([a], [b]) for a, b in zip(first, batches(other, 5), strict=True))


def test_drawing_does_not_change_the_global_generator(windows: dict[str, Windows]) -> None:
    before = torch.get_rng_state()
    data = source(windows, STICKY, RANDOM, SPAN)
    data.get_batch("train"), data.get_batch("val"), data.get_eval_batch("train")

    assert torch.equal(torch.get_rng_state(), before)


def test_every_evaluation_on_every_rank_gets_the_same_batches(windows: dict[str, Windows]) -> None:
    data = source(windows, STICKY, RANDOM)
    for split in ("train", "val"):
        first = [data.get_eval_batch(split) for _ in range(3)]
        batches(data, 2)
        again = [data.get_eval_batch(split) for _ in range(3)]
        assert same(first, again)
        assert not same(first[:1], first[1:2])
    assert same(batches(data, 3, "val"), batches(source(windows, STICKY, RANDOM, rank=1), 3, "val"))


def test_evaluation_and_training_batches_differ(windows: dict[str, Windows]) -> None:
    trained, data = batches(source(windows), 3), source(windows)
    evaluated = [data.get_eval_batch("train") for _ in range(3)]

    assert not any(same([a], [b]) for a in trained for b in evaluated)


def test_a_restart_continues_from_the_saved_state(windows: dict[str, Windows]) -> None:
    data = source(windows, STICKY, RANDOM)
    batches(data, 3)
    batches(data, 2, "val")  # in the middle of an evaluation
    state = data.state_dict()
    expected = [*batches(data, 2), *batches(data, 2, "val"), data.get_eval_batch("train")]

    data = source(windows, STICKY, RANDOM)
    data.load_state_dict(state)

    assert same(expected, [*batches(data, 2), *batches(data, 2, "val"), data.get_eval_batch("train")])
    assert state == {"drawn": 3, "evaluated": {"train": 0, "val": 2}}


# stages


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7])
def test_every_stage_masks_the_same_number_of_training_rows(windows: dict[str, Windows], count: int) -> None:
    """Also where stages do not divide the rows of a batch, and where there are more stages than rows."""
    stages = [UniformStage(0.1 + number / 10) for number in range(count)]
    drawn = batches(source(windows, *stages), count)

    rows = Counter(stage for batch in drawn for stage in batch["stage"].tolist())

    assert rows == {number: 4 for number in range(count)}


def test_the_row_says_which_stage_it_was_masked_by(windows: dict[str, Windows]) -> None:
    shares = {0: 0.25, 1: 0.5, 2: 0.75}
    stages = [StickyStage(share, 0.3, 0.3, 1) for share in shares.values()]
    data = source(windows, *stages)

    for batch in [*batches(data, 9), *batches(data, 3, "val")]:
        for stage, targets in zip(batch["stage"].tolist(), batch["target"], strict=True):
            assert (targets >= 0).sum() == shares[stage] * LENGTH


def test_training_draws_from_the_stages_reached_so_far(windows: dict[str, Windows]) -> None:
    reached = [1]
    data = source(windows, STICKY, RANDOM, SPAN)
    data.reached = lambda: reached[0]
    seen = []
    for reached[0] in (1, 2, 3):
        seen.append({stage for batch in batches(data, 3) for stage in batch["stage"].tolist()})
        assert {s for b in batches(data, 3, "val") for s in b["stage"].tolist()} == {0, 1, 2}  # all, from the beginning

    assert seen == [{0}, {0, 1}, {0, 1, 2}]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 12])
def test_every_stage_masks_the_same_part_of_the_validation_set(windows: dict[str, Windows], count: int) -> None:
    stages = [UniformStage(0.5)] * count
    drawn = batches(source(windows, HALF, validation=stages), 3, "val")

    rows = Counter(stage for batch in drawn for stage in batch["stage"].tolist())

    assert all(batch["input"].shape == (4, LENGTH) for batch in drawn)
    assert set(rows) == set(range(count))
    assert max(rows.values()) - min(rows.values()) <= 1


def test_validation_stages_may_be_others_than_those_of_training(windows: dict[str, Windows]) -> None:
    data = source(windows, StickyStage(0.25, 0.3, 0.3, 1), validation=[StickyStage(0.75, 0.3, 0.3, 1)])

    assert {(row >= 0).sum().item() for batch in batches(data, 3) for row in batch["target"]} == {2}
    assert {(row >= 0).sum().item() for batch in batches(data, 3, "val") for row in batch["target"]} == {6}


# rows without masks


def test_at_least_one_position_is_masked_in_every_batch(windows: dict[str, Windows]) -> None:
    data = source(windows, UniformStage(1e-9))

    for batch in [*batches(data, 30), *batches(data, 3, "val")]:
        assert (batch["target"] >= 0).sum() == 1
        assert (batch["input"] == WORDS.mask).sum() == 1
        assert batch["input"][batch["target"] >= 0].tolist() == [WORDS.mask]


def test_the_one_masked_position_is_no_padding(tmp_path: Path) -> None:
    for split in ("train", "val"):
        np.array([1, 2, 0] * 20, dtype=np.uint16).tofile(tmp_path / f"{split}.bin")
    windows = {
        split: Windows(tmp_path / f"{split}.bin", 5, start="line", newline_ids=[0], pad_token_id=WORDS.pad)
        for split in ("train", "val")
    }  # one line of 3 tokens fits, 2 places are padding

    for batch in batches(source(windows, UniformStage(1e-9), batch_size=2), 30):
        masked = batch["target"] >= 0
        assert masked.sum() == 1 and batch["target"].max() < TEXT
        assert (batch["input"] == WORDS.pad).sum() == 4


@pytest.mark.parametrize(("batch_size", "eval_iters"), [(4, 10), (1, 20), (3, 7)])
def test_untouched_rows_are_the_text_itself(windows: dict[str, Windows], batch_size: int, eval_iters: int) -> None:
    """A fraction of the validation rows, evenly spaced, even if a batch consists of one such row."""
    settings: dict[str, Any] = dict(corrupts=False, batch_size=batch_size, eval_iters=eval_iters)
    drawn = batches(source(windows, STICKY, untouched_share=0.1, **settings), eval_iters, "val")
    full = batches(source(windows, STICKY, **settings), eval_iters, "val")
    inputs, targets = (torch.cat([batch[name] for batch in drawn]) for name in ("input", "target"))
    masked, answers = (torch.cat([batch[name] for batch in full]) for name in ("input", "target"))

    untouched = (targets < 0).all(dim=1)

    assert untouched.nonzero().flatten().tolist() == list(range(9, batch_size * eval_iters, 10))
    assert torch.equal(targets[~untouched], answers[~untouched]) and torch.equal(inputs[~untouched], masked[~untouched])
    original = answers.where(answers >= 0, masked)
    assert torch.equal(inputs[untouched], original[untouched])


def test_training_has_no_untouched_rows(windows: dict[str, Windows]) -> None:
    data = source(windows, STICKY, untouched_share=0.5)

    assert all((batch["target"] >= 0).any(dim=1).all() for batch in batches(data, 5))
