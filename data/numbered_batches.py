"""NumberedBatches, the base of data sources that can make any batch from its number."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from core.losses import SPLITS

Batch = dict[str, torch.Tensor]
TRAINING, EVALUATION = 0, {"train": 1, "val": 2}  # purpose of a batch, part of its random seed


class NumberedBatches(ABC):
    """A data source whose batches depend on their number: subclasses make `training_batch` and `evaluation_batch`.

    eval_iters: number of batches of a split in an evaluation; every evaluation gets the same batches
    """

    def __init__(self, eval_iters: int, seed: int, rank: int) -> None:
        self.eval_iters = eval_iters
        self.seed = seed
        self.rank = rank
        self.drawn = 0  # number of training batches drawn
        self.evaluated = dict.fromkeys(SPLITS, 0)  # number of batches drawn in the current evaluation

    @abstractmethod
    def training_batch(self, number: int) -> Batch:
        """Return training batch `number` of this rank."""

    @abstractmethod
    def evaluation_batch(self, split: str, number: int) -> Batch:
        """Return batch `number` of an evaluation of a split."""

    def get_batch(self, split: str) -> Batch:
        """Return the next training batch, or for `val` the next batch of the evaluation."""
        if split != "train":
            return self.get_eval_batch(split)
        number, self.drawn = self.drawn, self.drawn + 1
        return self.training_batch(number)

    def get_eval_batch(self, split: str) -> Batch:
        """Return the next batch of the evaluation of a split; after `eval_iters` batches they repeat."""
        number = self.evaluated[split]
        self.evaluated[split] = (number + 1) % self.eval_iters
        return self.evaluation_batch(split, number)

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of the next batches."""
        return {"drawn": self.drawn, "evaluated": dict(self.evaluated)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the numbers of the next batches."""
        self.drawn, self.evaluated = state["drawn"], dict(state["evaluated"])
