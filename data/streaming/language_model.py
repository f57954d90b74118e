"""LanguageModelProvider, batches for next-token prediction."""

from pathlib import Path

import torch

from core.errors import DataError
from core.losses import SPLITS
from data.meta import read_meta
from data.streaming.batch_file import StoredBatch
from data.streaming.provider import Provider, cut_rows, schema
from data.token_file import TokenFile
from data.windows import Windows

KEPT = ("vocab_size", "stoi", "itos", "tokenizer", "dtype")  # of the text's meta.pkl, which the queue's may replace


class LanguageModelProvider(Provider):
    """Provider of random crops of a split; the targets are the inputs shifted by one position.

    target_size: tokens of a target row; None: `block_size`
    """

    def __init__(self, folder: str | Path, batch_size: int, block_size: int, target_size: int | None = None) -> None:
        folder = Path(folder)
        self.batch_size = batch_size
        self.block_size = block_size
        self.target_size = target_size or block_size
        length = max(block_size, self.target_size + 1)
        files = {split: TokenFile(folder / f"{split}.bin") for split in SPLITS}
        self.windows = {split: Windows(file, length) for split, file in files.items()}
        vocabulary = read_meta(folder / "meta.pkl")
        if "stoi" not in vocabulary:
            raise DataError(f"{folder / 'meta.pkl'} has no vocabulary (stoi): prepare the data set again")
        for file in files.values():
            file.check_vocab(vocabulary["vocab_size"])
        self.meta = {
            **{key: value for key, value in vocabulary.items() if key in KEPT},
            "training_type": "LM",
            "batch_schema": schema(block_size, [self.target_size]),
            "batch_size": batch_size,
            "block_size": block_size,
            "target_size": self.target_size,
        }

    def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
        rows, _ = self.windows[split].draw(count * self.batch_size, generator)
        return cut_rows(
            rows[:, : self.block_size], rows[:, 1 : 1 + self.target_size], self.batch_size, "language_model"
        )
