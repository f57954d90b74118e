"""Corrupted texts: replaced positions, their fraction at each iteration, and reproducible batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.corrupted_text import CorruptedText
from data.windows import Windows

LENGTH, TEXT = 16, 17


@pytest.fixture
def windows(tiny_bins: Path) -> dict[str, Windows]:
    return {split: Windows(tiny_bins / f"{split}.bin", LENGTH) for split in ("train", "val")}


def source(windows: dict[str, Windows], **changes: Any) -> CorruptedText:
    """Return a data source that replaces an eighth of the tokens at first, and five eighths from iteration 4 on."""
    settings: dict[str, Any] = dict(
        unmasked_min=0.375, unmasked_max=0.875, warmup_iters=4, p1_p2_ratio=2.0, eval_at=2, batch_size=8,
        eval_iters=3, seed=1, rank=0,
    )  # fmt: skip
    return CorruptedText(windows, TEXT, **{**settings, **changes})


def batches(data: CorruptedText, count: int, split: str = "train") -> list[dict[str, torch.Tensor]]:
    """Draw batches; of training two per iteration."""
    found = []
    for _ in range(count):
        if split == "train":
            data.iter_num = data.drawn // 2
        found.append(data.get_batch(split))
    return found


def same(one: Any, other: Any) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def test_a_batch_is_a_text_and_what_of_it_was_replaced(windows: dict[str, Windows], tiny_bins: Path) -> None:
    text = np.fromfile(tiny_bins / "train.bin", np.uint16).astype(np.int64)
    crops = torch.from_numpy(np.stack([text[start : start + LENGTH] for start in range(len(text) - LENGTH + 1)]))
    for batch in batches(source(windows), 6):
        inputs, targets = batch["input"], batch["target"]
        assert inputs.shape == targets.shape == (8, LENGTH) and inputs.dtype == targets.dtype == torch.int64
        assert set(targets.flatten().tolist()) == {0, 1} and inputs.max() < TEXT
        for row, changed in zip(inputs, targets.bool(), strict=True):
            assert ((crops == row) | changed).all(dim=1).any()  # the text, except at replaced positions


def test_the_replaced_fraction_grows_with_the_iteration_not_the_batch(windows: dict[str, Windows]) -> None:
    """Replacements in clusters reach their share exactly: of 16 tokens 2 at first, and 10 from iteration 4 on."""
    counts = [set(batch["target"].sum(dim=1).tolist()) for batch in batches(source(windows), 12)]

    assert counts == [{2}, {2}, {4}, {4}, {6}, {6}, {8}, {8}, {10}, {10}, {10}, {10}]


def test_evaluations_take_the_share_of_one_iteration(windows: dict[str, Windows]) -> None:
    data = source(windows)
    batches(data, 9)

    for split in ("train", "val"):
        shares = {n for _ in range(3) for n in data.get_eval_batch(split)["target"].sum(dim=1).tolist()}
        assert shares == {6}


def test_independent_replacements_come_close_to_their_share(windows: dict[str, Windows]) -> None:
    drawn = batches(source(windows, p1_p2_ratio=1.0, warmup_iters=0, batch_size=64), 10)
    labels = torch.cat([batch["target"] for batch in drawn]).float()

    assert labels.mean().item() == pytest.approx(0.625, abs=3 * (0.25 / labels.numel()) ** 0.5)


def test_padding_has_no_label(tmp_path: Path) -> None:
    for split in ("train", "val"):
        np.array([1, 2, 0] * 20, dtype=np.uint16).tofile(tmp_path / f"{split}.bin")
    windows = {
        split: Windows(tmp_path / f"{split}.bin", 5, start="line", newline_ids=[0], pad_token_id=30)
        for split in ("train", "val")
    }

    for batch in batches(source(windows, p1_p2_ratio=1.0), 10):
        assert (batch["target"][:, 3:] == -1).all() and (batch["input"][:, 3:] == 30).all()
        assert (batch["target"][:, :3] >= 0).all() and batch["input"][:, :3].max() < TEXT


def test_training_batch_n_follows_from_seed_rank_and_n_alone(windows: dict[str, Windows]) -> None:
    first = batches(source(windows), 4)
    torch.manual_seed(99)
    again = source(windows)
    before = torch.get_rng_state()
    second = [again.get_batch("train")]
    batches(again, 2, "val")
    again.get_eval_batch("train")
    second += batches(again, 3)

    assert same(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(first[:1], first[1:2])
    for other in (source(windows, seed=2), source(windows, rank=1)):
        assert not any(same([a], [b]) for a, b in zip(first, batches(other, 4), strict=True))


def test_every_evaluation_on_every_rank_gets_the_same_batches(windows: dict[str, Windows]) -> None:
    data, other = source(windows), source(windows, rank=1)
    for split in ("train", "val"):
        first = [data.get_eval_batch(split) for _ in range(3)]
        batches(data, 2)
        again = [data.get_eval_batch(split) for _ in range(3)]
        assert same(first, again) and not same(first[:1], first[1:2])
        assert same(first, [other.get_eval_batch(split) for _ in range(3)])
    trained = batches(source(windows), 3)
    assert not any(same([a], [data.get_eval_batch("train")]) for a in trained)


def test_a_restart_continues_from_the_saved_state(windows: dict[str, Windows]) -> None:
    data = source(windows)
    batches(data, 5)
    batches(data, 2, "val")
    state = data.state_dict()
    expected = [*batches(data, 2), *batches(data, 2, "val")]

    data = source(windows)
    data.load_state_dict(state)

    assert same(expected, [*batches(data, 2), *batches(data, 2, "val")])
    assert state == {"drawn": 5, "evaluated": {"train": 0, "val": 2}, "iter_num": 2}
