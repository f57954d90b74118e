"""Provider, the interface of the classes that make the batches of a queue, and helpers for them."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from data.streaming.batch_file import StoredBatch


class Provider(ABC):
    """Makes the batches of one file at a time.

    The contract: the batches depend only on the arguments. All draws come from the given generator, and a call leaves
    no state behind.

    meta: the content of the data set's meta.pkl: vocab_size, training_type, batch_schema, vocabulary, special tokens
    """

    meta: dict[str, Any]

    @abstractmethod
    def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
        """Return `count` batches of a split."""


def cut_rows(
    inputs: torch.Tensor, targets: torch.Tensor, batch_size: int, model_mode: str, **per_row: list[Any]
) -> list[StoredBatch]:
    """Return batches of `batch_size` rows. per_row: metadata with one entry per row, cut in the same way."""
    batches = []
    for start in range(0, len(inputs), batch_size):
        part = slice(start, start + batch_size)
        # torch.save stores the complete storage of a slice, but only the rows of a clone
        tensors = {"input": inputs[part].clone(), "target": targets[part].clone()}
        metadata = {name: values[part] for name, values in per_row.items()}
        batches.append(StoredBatch(tensors, {"model_mode": model_mode, **metadata}))
    return batches


def schema(block_size: int, target_shape: list[int], target_dtype: str = "int64") -> list[dict[str, Any]]:
    """Return the batch_schema of meta.pkl: name, dtype, role, and the shape of one row of each tensor."""
    return [
        {"name": "input", "dtype": "int64", "shape": [block_size], "role": "input"},
        {"name": "target", "dtype": target_dtype, "shape": target_shape, "role": "target"},
    ]
