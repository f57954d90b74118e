"""Batches of a user's collator: their labels are looked at before anything is learnt from them."""

from typing import Any

import pytest
import torch

from core.errors import DataError
from data.rows.custom import CheckedCollator, count_labels
from data.rows.encoding import IGNORED

IDS = torch.tensor([[5, 6, 7, 8], [9, 5, 0, 0]])
LABELS = torch.tensor([[IGNORED, 6, 7, 8], [9, 5, IGNORED, IGNORED]])
SHIFTED = torch.tensor([[6, 7, 8, IGNORED], [5, IGNORED, IGNORED, IGNORED]])


def make(batch: Any, shifts: bool = True) -> CheckedCollator:
    return CheckedCollator(lambda rows: batch, shifts)


def test_the_users_rows_are_collated() -> None:
    seen: list[Any] = []

    def collate(rows: list[Any]) -> dict[str, torch.Tensor]:
        seen.extend(rows)
        return {"input_ids": IDS, "labels": LABELS}

    assert CheckedCollator(collate, True)([["a"], ["b"]]).keys() == {"input_ids", "labels"} and seen == ["a", "b"]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (3, "^the collator returns a int, wanted a dict with input_ids and labels"),
        ({"input_ids": IDS}, "^the collator returns input_ids, wanted"),
        ({"input_ids": IDS, "labels": torch.full((2, 4), IGNORED)}, "^all labels of a batch are -100, so that nothing"),
        ({"input_ids": IDS, "labels": SHIFTED}, "^the collator's labels are shifted already"),
    ],
)
def test_labels_that_teach_nothing_or_too_late_are_refused(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(batch)([[0]])


def test_labels_of_other_tokens_are_the_users_business() -> None:
    other = torch.tensor([[3, 3, 3, 3], [IGNORED, 4, 4, 4]])
    assert torch.equal(make({"input_ids": IDS, "labels": other})([[0]])["labels"], other)
    assert make({"input_ids": IDS, "labels": SHIFTED}, shifts=False)([[0]])  # of a decoder


def test_labels_are_counted_without_a_first_one_that_nothing_predicts() -> None:
    assert count_labels({"labels": LABELS}, shifts=True) == 4 and count_labels({"labels": LABELS}, shifts=False) == 5
