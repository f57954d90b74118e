"""RowBatches: the labels of an update count alike, whatever rank and micro-batch they are in."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from data.rows.batches import RowBatches
from data.rows.encoding import IGNORED, Example
from data.rows.items import Item, TableItems

EXAMPLES = [Example([n] * (n % 4 + 2), [IGNORED] + [n] * (n % 4 + 1)) for n in range(10)]


def collate(items: Sequence[Item]) -> dict[str, Any]:
    return {"numbers": [example.input_ids[0] for item in items for example in item]}


def make(
    rank: int = 0, world_size: int = 1, micro_steps: int = 2, seed: int | None = None, eval_iters: int = 3
) -> RowBatches:
    def items(order: int | None) -> TableItems:
        return TableItems(EXAMPLES.__getitem__, [len(example.input_ids) for example in EXAMPLES], order, None)

    return RowBatches(
        items(seed),
        {"train": items(None), "val": items(None)},
        collate,
        batch_size=2,
        micro_steps=micro_steps,
        eval_iters=eval_iters,
        shifts=True,
        rank=rank,
        world_size=world_size,
    )


def labels(batch: dict[str, Any]) -> int:
    return sum(number % 4 + 1 for number in batch["numbers"])


def test_the_shares_of_an_update_make_the_mean_over_its_labels() -> None:
    data = make()
    for _ in range(4):  # the third update crosses the end of the epoch
        update = [data.get_batch("train") for _ in range(2)]
        mean = sum(labels(batch) * batch["loss_share"] for batch in update) / 2
        torch.testing.assert_close(mean, torch.tensor(1.0))


@pytest.mark.parametrize("micro_steps", [1, 2])
def test_ranks_divide_an_update_without_overlap(micro_steps: int) -> None:
    one, ranks = make(micro_steps=2 * micro_steps), [make(rank, 2, micro_steps) for rank in (0, 1)]
    for _ in range(3):
        expected = [one.get_batch("train") for _ in range(2 * micro_steps)]
        found = [[data.get_batch("train") for _ in range(micro_steps)] for data in ranks]
        in_order = [batch for step in zip(*found, strict=True) for batch in step]
        assert [batch["numbers"] for batch in in_order] == [batch["numbers"] for batch in expected]
        assert {batch["loss_share"].item() for batch in in_order} == {expected[0]["loss_share"].item()}


@pytest.mark.parametrize("drawn", range(8))
def test_a_position_is_exact_in_the_middle_of_an_update(drawn: int) -> None:
    whole, first = make(seed=5), make(seed=5)
    expected = [whole.get_batch("train")["numbers"] for _ in range(20)]
    for _ in range(drawn):
        first.get_batch("train")
    second = make(seed=5)
    second.load_state_dict(first.state_dict())
    assert [second.get_batch("train")["numbers"] for _ in range(12)] == expected[drawn : drawn + 12]


def test_evaluations_see_the_same_batches_and_leave_training_alone() -> None:
    data, other = make(eval_iters=5), make(eval_iters=5)
    seen = [[data.get_eval_batch("val")["numbers"] for _ in range(5)] for _ in range(2)]
    assert seen[0] == seen[1] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert data.get_batch("train")["numbers"] == other.get_batch("train")["numbers"]


def test_a_last_batch_of_an_evaluation_may_be_smaller() -> None:
    data = make(eval_iters=4)
    data.batch_size = 3
    found = [data.get_eval_batch("val") for _ in range(4)]
    assert [batch["numbers"] for batch in found] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    mean = sum(labels(batch) * batch["loss_share"] for batch in found) / 4
    torch.testing.assert_close(mean, torch.tensor(1.0))


def test_batches_are_made_when_they_are_drawn() -> None:
    """Those of a whole evaluation, or update, would fill the memory with images."""
    data, made = make(micro_steps=3), []
    collate_items = data.collate

    def collate(items: Sequence[Item]) -> dict[str, Any]:
        made.append(items)
        return collate_items(items)

    data.collate = collate
    for count in range(1, 4):
        data.get_batch("train")
        assert len(made) == count
    for count in range(4, 7):
        data.get_eval_batch("val")
        assert len(made) == count
