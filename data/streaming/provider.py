"""What fills the queue: the contract of a provider."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from data.streaming.batch_file import StoredBatch


class Provider(ABC):
    """Makes the batches of one file at a time.

    The contract: what is made follows from the arguments alone. All draws come from the generator handed in; nothing
    is remembered from one call to the next.

    meta: what the data set's meta.pkl says: vocab_size, training_type, batch_schema, the vocabulary, special tokens
    """

    meta: dict[str, Any]

    @abstractmethod
    def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
        """Return `count` batches of a split."""


def cut_rows(
    inputs: torch.Tensor, targets: torch.Tensor, batch_size: int, model_mode: str, **per_row: list[Any]
) -> list[StoredBatch]:
    """Cut rows into batches of `batch_size` each; what is said about each row goes along."""
    batches = []
    for start in range(0, len(inputs), batch_size):
        part = slice(start, start + batch_size)
        # a slice of a tensor is saved with all of it, a clone alone
        tensors = {"input": inputs[part].clone(), "target": targets[part].clone()}
        notes = {name: values[part] for name, values in per_row.items()}
        batches.append(StoredBatch(tensors, {"model_mode": model_mode, **notes}))
    return batches


def schema(block_size: int, target_shape: list[int], target_dtype: str = "int64") -> list[dict[str, Any]]:
    """Describe a batch's tensors, a row of each, as meta.pkl does."""
    return [
        {"name": "input", "dtype": "int64", "shape": [block_size], "role": "input"},
        {"name": "target", "dtype": target_dtype, "shape": target_shape, "role": "target"},
    ]
