"""Epochs as updates: of bins, and of rows with a partial last update, in groups and packs, on several ranks."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

import core
import wiring
from config.options import Options
from configurator import configure
from core import ConfigError
from data.rows.batches import RowBatches
from data.rows.encoding import IGNORED, Example
from data.rows.items import Ends, TableItems
from wiring.data import open_data
from wiring.sizes.run_length import with_run_length


def collate(items: Any) -> dict[str, torch.Tensor]:
    """Return rows of one token, the number of the example, as inputs and labels."""
    rows = [[example.input_ids[0] for example in item] for item in items]
    width = max(map(len, rows))
    ids = torch.tensor([row + [IGNORED] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "labels": ids.clone()}


def batches(
    count: int, ends: Ends, batch_size: int = 2, micro_steps: int = 3, block: int | None = None, **ranks: int
) -> RowBatches:
    examples, lengths = [Example([n], [n]) for n in range(count)], [1 + n % 3 for n in range(count)]
    items = TableItems(examples.__getitem__, lengths, 7, block, ends)
    settings: dict[str, Any] = {"batch_size": batch_size, "micro_steps": micro_steps, "eval_iters": 1, "shifts": False}
    return RowBatches(items, {}, collate, **settings, **ranks)


def seen(source: RowBatches, updates: int) -> list[int]:
    """Return the labelled examples of so many updates."""
    drawn = [source.get_batch("train") for _ in range(updates * source.micro_steps)]
    return [int(label) for batch in drawn for label in batch["labels"].flatten() if label != IGNORED]


@pytest.mark.parametrize(("batch_size", "micro_steps", "block"), [(2, 3, None), (4, 1, None), (3, 2, 5), (50, 2, None)])
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_each_row_is_learnt_once_per_epoch(passes: int, batch_size: int, micro_steps: int, block: int | None) -> None:
    source = batches(23, Ends(passes), batch_size, micro_steps, block)
    updates = source.count_updates(passes)

    assert Counter(seen(source, updates)) == dict.fromkeys(range(23), passes)
    assert block or updates == -(-23 * passes // (batch_size * micro_steps))


def test_a_fraction_of_an_epoch_is_that_share_of_its_rows() -> None:
    source = batches(20, Ends(1.5))
    found = Counter(seen(source, source.count_updates(1.5)))

    assert sorted(found.values()) == [1] * 10 + [2] * 10


def test_groups_of_epochs_end_with_an_update_of_their_own() -> None:
    source = batches(23, Ends(None, 1))
    assert [source.count_updates(epochs) for epochs in (1, 2, 3)] == [4, 8, 12]
    for _ in range(3):
        assert Counter(seen(source, 4)) == dict.fromkeys(range(23), 1)


def test_ranks_share_the_last_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one of them has no row left: it computes a batch that teaches nothing."""
    sources = [batches(9, Ends(1), 2, 2, rank=rank, world_size=2) for rank in range(2)]
    assert {source.count_updates(1) for source in sources} == {2}
    found = [seen(source, 2) for source in sources]

    assert Counter(found[0] + found[1]) == dict.fromkeys(range(9), 1)
    assert len(found[0]) == 5 and len(found[1]) == 4


def test_the_last_updates_loss_is_a_mean_over_its_own_labels() -> None:
    source = batches(7, Ends(1), 2, 2)
    drawn = [source.get_batch("train") for _ in range(4)]
    shares = [float(batch["loss_share"]) for batch in drawn]
    labels = [int((batch["labels"] != IGNORED).sum()) for batch in drawn]

    assert labels == [2, 2, 2, 1]
    for place in (0, 2):  # the sum over an update of share * labels / micro-steps is 1
        assert sum(shares[place + step] * labels[place + step] for step in range(2)) / 2 == pytest.approx(1)


def test_a_position_within_the_last_update_is_restored() -> None:
    source = batches(7, Ends(1), 2, 3)
    first = [source.get_batch("train") for _ in range(4)]
    state = source.state_dict()
    rest = [source.get_batch("train") for _ in range(2)]
    again = batches(7, Ends(1), 2, 3)
    again.load_state_dict(state)

    assert len(first) == 4
    for batch, other in zip(rest, [again.get_batch("train") for _ in range(2)], strict=True):
        assert torch.equal(batch["labels"], other["labels"])


# from the options

ARGV = ["--device=cpu", "--dataset=words", "--block_size=8", "--batch_size=4", "--gradient_accumulation_steps=2"]


def resolved(*argv: str) -> tuple[Options, core.LoopNumbers]:
    """Return what `with_run_length` makes of options, for a text of 1,000 tokens: 64 of them in an update."""
    options = configure(Options, [*ARGV, *argv])
    preemption = core.Preemption(None)
    runtime = core.Runtime(**wiring.runtime_settings(options, preemption))
    start = wiring.find_start(options, runtime, core.CheckpointManager("out"))
    data = open_data(options, runtime, start=start)
    return with_run_length(options, runtime, data, start)


@pytest.fixture(autouse=True)
def place(run_dir: Any) -> None:
    (run_dir / "data" / "words").mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        np.zeros(1000, dtype=np.uint16).tofile(run_dir / "data" / "words" / f"{split}.bin")


def test_epochs_of_a_text_are_its_tokens() -> None:
    options, numbers = resolved("--num_epochs=2", "--warmup_ratio=0.1")

    assert (options.max_iters, options.lr_decay_iters, options.warmup_iters) == (31, 32, 4)  # 2,000 / 64 = 31.25
    assert numbers.max_iters == 31 and numbers.updates_per_epoch is None
    assert not {"max_iters", "lr_decay_iters", "warmup_iters"} & options.model_fields_set


def test_the_users_own_numbers_stay() -> None:
    options, _ = resolved("--num_epochs=2", "--max_iters=10", "--lr_decay_iters=50")
    assert (options.max_iters, options.lr_decay_iters) == (10, 50)
    options, _ = resolved("--max_iters=19", "--warmup_ratio=0.25")
    assert (options.max_iters, options.warmup_iters) == (19, 5)


def test_without_epochs_nothing_changes() -> None:
    plain = configure(Options, ARGV)
    options, numbers = resolved()
    assert options == plain and numbers.max_iters == 600_000


def test_a_job_ends_with_its_epochs() -> None:
    options, numbers = resolved("--epochs_per_job=2", "--lr_schedule=step")
    assert numbers.max_iters == 31 and numbers.updates_per_epoch == 16
    assert options.max_iters == 600_000
    assert resolved("--epochs_per_job=1", "--num_epochs=5")[1].max_iters == 15
    assert resolved("--epochs_per_job=2", "--max_iters=5")[1].max_iters == 5


def test_data_without_a_size_have_no_epochs() -> None:
    with pytest.raises(ConfigError, match="warmup_ratio is a share of the run's updates: set num_epochs or max_iters"):
        resolved("--epochs_per_job=1", "--warmup_ratio=0.1")
