"""Helpers of the queue's tests: a text, a provider whose batches all differ, and the content of a queue."""

from pathlib import Path
from typing import Any

import pytest
import torch

from data.corpus import write_text
from data.streaming.batch_file import StoredBatch
from data.streaming.char_text import CharText
from data.streaming.producer import Producer
from data.streaming.provider import Provider, cut_rows
from data.tokenizers import CharTokenizer

LINES = ["First Citizen:\n", "Before we proceed any further, hear me speak.\n", "\n", "All:\n", "Speak, speak.\n"]


class Noise(Provider):
    """Batches of random numbers, so large that no two are the same."""

    def __init__(self, training_type: str = "MLM", batch_size: int = 2, block_size: int = 4) -> None:
        self.batch_size, self.block_size = batch_size, block_size
        self.meta: dict[str, Any] = {
            "vocab_size": 9, "training_type": training_type, "batch_schema": [], "batch_size": batch_size,
            "block_size": block_size,
        }  # fmt: skip

    def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
        numbers = torch.randint(2**60, (2, count * self.batch_size, self.block_size), generator=generator)
        return cut_rows(numbers[0], numbers[1], self.batch_size, "language_model")


def producer(folder: Path, provider: Provider | None = None, **options: Any) -> Producer:
    """Return a producer of small files."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"batches_per_file": 3, "max_backlog_files": 2, "sleep_seconds": 0.01, **options}
    return Producer(folder, provider or Noise(), **settings)


def content(folder: Path, split: str = "train") -> list[list[list[int]]]:
    """Return the inputs of every batch in the queue, in order, as the files have them."""
    found = []
    for path in sorted((folder / "queue" / split).rglob("*.pt"), key=lambda path: int(path.name.split("-")[1])):
        stored = torch.load(path, weights_only=True)
        found += [entry["tensors"]["input"].tolist() for entry in stored["batches"]]
    return found


@pytest.fixture
def text(tmp_path: Path) -> CharText:
    """Return a text of short lines, some of them blank, split into 4500 and 500 characters."""
    folder = tmp_path / "text"
    whole = ("".join(LINES) * 60)[:5000]
    write_text(folder, whole, CharTokenizer.from_text(whole))
    return CharText(folder)
