"""Batches that a user's collator makes of rows of any type."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from core.errors import DataError
from data.rows.encoding import IGNORED

Batch = dict[str, Any]
CHECKED = 4  # batches that are looked at, from the first one on


class CheckedCollator:
    """Makes a batch of items whose rows are the user's, and looks at the labels of the first ones.

    collate: the user's, `collate(rows) -> batch` with input_ids and labels
    shifts:  the model predicts the label of a place at the place before it, as causal models of transformers do

    Raises DataError if a batch has no labels, none that is learnt, or labels that are shifted already.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], shifts: bool) -> None:
        self.collate, self.shifts = collate, shifts
        self.checked = 0

    def __call__(self, items: Sequence[Sequence[Any]]) -> Batch:
        """Return the batch of some items."""
        made = self.collate([row for item in items for row in item])
        if not isinstance(made, Mapping) or not {"input_ids", "labels"} <= set(made):
            held = ", ".join(map(str, made)) if isinstance(made, Mapping) else f"a {type(made).__name__}"
            raise DataError(f"the collator returns {held}, wanted a dict with input_ids and labels")
        batch = dict(made)
        if self.checked < CHECKED:
            self.checked += 1
            self._check(batch["input_ids"], batch["labels"])
        return batch

    def _check(self, ids: torch.Tensor, labels: torch.Tensor) -> None:
        known = labels != IGNORED
        if not known.any():
            raise DataError(
                f"all labels of a batch are {IGNORED}, so that nothing is learnt: look at the collator and at the "
                "length limits"
            )
        if not self.shifts or ids.shape != labels.shape or torch.equal(ids[known], labels[known]):
            return
        inner = known[:, :-1]
        if torch.equal(ids[:, 1:][inner], labels[:, :-1][inner]):
            raise DataError(
                "the collator's labels are shifted already: give each label at the place of its own token, as the loss "
                "shifts them"
            )


def count_labels(batch: Batch, shifts: bool) -> int:
    """Return how many labels of a batch are learnt."""
    labels = batch["labels"][:, 1:] if shifts else batch["labels"]
    return int((labels != IGNORED).sum())
