"""RowBatches, the data source of labelled rows: micro-batches that know the labels of their whole update."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from data.rows.custom import count_labels
from data.rows.encoding import IGNORED, learnt
from data.rows.items import Item, Items, TableItems

log = logging.getLogger("coregpt")

Batch = dict[str, Any]
Collate = Callable[[Sequence[Item]], Batch]
Make = Callable[[], Batch]


class RowBatches:
    """A data source whose batches are dicts of tensors: what `collate` makes of the examples, and

    loss_share () float32: what the sum of a micro-batch's losses is multiplied by, so that the mean over the
                           micro-batches of an update, on all ranks, is the mean over all labelled tokens of the update

    Training batches are those of this rank: an update takes the next items, rank after rank, micro-step after
    micro-step; the last update of a run of so many epochs has fewer, and may have batches from which nothing is learnt.
    An evaluation takes the first `eval_iters` batches of each split, always the same ones; they count as
    one update.

    training, validation: the items of each split; the evaluation of `train` has a source of its own
    micro_steps:          of an update, on each rank
    shifts:               see `data.rows.encoding.learnt`
    order_of:             what the order of the rows depends on; a position in another order means nothing
    collates_all:         only a batch tells the labels of its rows, so that each rank makes those of all ranks
    """

    def __init__(
        self,
        training: Items,
        evaluation: dict[str, Items],
        collate: Collate,
        *,
        batch_size: int,
        micro_steps: int,
        eval_iters: int,
        shifts: bool,
        rank: int = 0,
        world_size: int = 1,
        collates_all: bool = False,
        order_of: str = "",
    ) -> None:
        self.training, self.evaluation, self.collate = training, evaluation, collate
        self.batch_size, self.micro_steps, self.eval_iters = batch_size, micro_steps, eval_iters
        self.shifts, self.rank, self.world_size, self.collates_all = shifts, rank, world_size, collates_all
        self.order_of = order_of
        self._update: list[Make] = []  # the micro-batches of this rank in the update at hand
        self._given = 0  # how many of them have been drawn
        self._before = training.state_dict()  # position of the update
        self._starts = {split: items.state_dict() for split, items in evaluation.items()}
        self._evaluated: dict[str, list[Make]] = {}
        self._evaluating = ""  # the split whose batches are drawn

    @property
    def has_epochs(self) -> bool:
        """Whether it is known how many items an epoch has."""
        return isinstance(self.training, TableItems)

    def count_updates(self, epochs: float) -> int:
        """Return the number of updates that so many epochs need."""
        assert isinstance(self.training, TableItems)
        return self.training.count_takes(self.micro_steps * self.world_size * self.batch_size, epochs)

    def longest_batch(self) -> Batch:
        """Return the largest micro-batch that training may draw, as far as the rows are known. The position stays."""
        return {**self.collate(self.training.longest(self.batch_size)), "loss_share": torch.tensor(1.0)}

    def get_batch(self, split: str) -> Batch:
        """Return the next micro-batch of training. split: train"""
        if self._given == len(self._update):
            before = self.training.state_dict()
            self._update = self._draw_update()
            self._before, self._given = before, 0
        self._given += 1
        return self._update[self._given - 1]()

    def get_eval_batch(self, split: str) -> Batch:
        """Return the next batch of an evaluation."""
        waiting = self._evaluated.setdefault(split, [])
        if split != self._evaluating:  # an evaluation that was interrupted has left some
            self._evaluating = split
            waiting.clear()
        if not waiting:
            items = self.evaluation[split]
            items.load_state_dict(self._starts[split])
            taken = items.take(self._eval_size(items))
            waiting += self._batches(taken, self.eval_iters, range(self.eval_iters))
        return waiting.pop(0)()

    def _eval_size(self, items: Items) -> int:
        """Return how many items an evaluation takes: all of a table, the last batch smaller, if it has hardly fewer."""
        wanted, least = self.eval_iters * self.batch_size, (self.eval_iters - 1) * self.batch_size
        return len(items) if isinstance(items, TableItems) and least < len(items) < wanted else wanted

    def _draw_update(self) -> list[Make]:
        count = self.micro_steps * self.world_size
        own = range(self.rank, count, self.world_size)
        return self._batches(self.training.take(count * self.batch_size), count, own)

    def _batches(self, items: Sequence[Item], count: int, own: Sequence[int]) -> list[Make]:
        """Return what makes some of the `count` micro-batches of the items: images would fill the memory before.

        own: the numbers of those
        """
        size = self.batch_size
        parts = [items[number * size : (number + 1) * size] for number in range(count)]
        made = [self._collated(part, items) for part in parts] if self.collates_all else []
        if self.collates_all:
            labelled = sum(count_labels(batch, self.shifts) for batch in made)
        else:
            labelled = sum(learnt(example, self.shifts) for item in items for example in item)
        share = torch.tensor(count / max(labelled, 1), dtype=torch.float32)

        def make(number: int) -> Batch:
            batch = made[number] if made else self._collated(parts[number], items)
            return {**batch, "loss_share": share}

        return [partial(make, number) for number in own]

    def _collated(self, part: Sequence[Item], items: Sequence[Item]) -> Batch:
        """Return the batch of some items; of none, at the end of the run, a batch from which nothing is learnt."""
        if part:
            return self.collate(part)
        empty = self.collate(items[:1])
        return {**empty, "labels": torch.full_like(empty["labels"], IGNORED)}

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the update at hand, and how many of its micro-batches have been drawn."""
        return {"update": self._before, "given": self._given, "order_of": self.order_of}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` returned; the update at hand is drawn again.

        Of rows in another order, training begins with the first one.
        """
        if state.get("order_of") != self.order_of:
            log.warning(
                f"data: the rows are in another order than before the interruption, and begin anew ({self.order_of})"
            )
            return
        self.training.load_state_dict(state["update"])
        self._before, self._given, self._update = state["update"], state["given"], []
        if self._given:
            self._update = self._draw_update()
