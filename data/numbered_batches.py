"""Batches that follow from their number, for training and for evaluations that see the same ones every time."""

from abc import ABC, abstractmethod
from typing import Any

import torch

Batch = dict[str, torch.Tensor]


class NumberedBatches(ABC):
    """A data source that counts: `training_batch(n)` and `evaluation_batch(split, n)` make what the number says.

    eval_iters: after so many batches of an evaluation, the same ones come again
    """

    def __init__(self, eval_iters: int, seed: int, rank: int, device: torch.device) -> None:
        self.eval_iters = eval_iters
        self.seed = seed
        self.rank = rank
        self.device = device
        self.drawn = 0  # training batches so far
        self.evaluated = {"train": 0, "val": 0}  # batches of the evaluation at hand

    @abstractmethod
    def training_batch(self, number: int) -> Batch:
        """Return training batch `number` of this rank."""

    @abstractmethod
    def evaluation_batch(self, split: str, number: int) -> Batch:
        """Return batch `number` of an evaluation of a split."""

    def get_batch(self, split: str) -> Batch:
        """Return the next training batch, or the next of the fixed validation set."""
        if split != "train":
            return self.get_eval_batch(split)
        number, self.drawn = self.drawn, self.drawn + 1
        return self.training_batch(number)

    def get_eval_batch(self, split: str) -> Batch:
        """Return the next batch of an evaluation: after `eval_iters` of them the same ones come again."""
        number = self.evaluated[split]
        self.evaluated[split] = (number + 1) % self.eval_iters
        return self.evaluation_batch(split, number)

    def on_device(self, batch: Batch) -> Batch:
        """Return a batch where it is computed; the copy to a GPU runs while that computes."""
        if self.device.type != "cuda":
            return batch
        return {name: part.pin_memory().to(self.device, non_blocking=True) for name, part in batch.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches were drawn; which ones they were follows."""
        return {"drawn": self.drawn, "evaluated": dict(self.evaluated)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        self.drawn, self.evaluated = state["drawn"], dict(state["evaluated"])
