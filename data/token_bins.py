"""TokenBins, the data source of random crops of train.bin and val.bin, nanoGPT's files of uint16 token ids."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.errors import DataError
from core.losses import SPLITS
from data.meta import read_meta

SCANNED_TOKENS = 2**28  # `check_vocab` reads this many tokens from the beginning of each file
ENDS_BYTES, BLOCKS, BLOCK_BYTES = 2**20, 64, 4096  # a fingerprint reads both ends and evenly spaced blocks


class TokenBins:
    """A data source: `get_batch(split)` returns inputs and targets, each (B, T) int64.

    Start positions are drawn from torch's global generator, as in nanoGPT. `starts` holds the start positions of the
    last batch of each split, in tokens. Raises DataError in the constructor if a file is missing, damaged or too short.
    """

    def __init__(self, folder: str | Path, block_size: int, batch_size: int) -> None:
        self.folder = Path(folder)
        self.block_size = block_size
        self.batch_size = batch_size
        self.starts: dict[str, list[int]] = {}
        self.paths = {split: self.folder / f"{split}.bin" for split in SPLITS}
        for path in self.paths.values():
            self._check(path)

    @property
    def meta_path(self) -> Path:
        """Path of the data set's meta.pkl, which may be absent."""
        return self.folder / "meta.pkl"

    @cached_property
    def vocab_size(self) -> int | None:
        """Size of the vocabulary; None for a data set without meta.pkl."""
        return int(read_meta(self.meta_path)["vocab_size"]) if self.meta_path.exists() else None

    def get_batch(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a random batch; the targets are the inputs shifted by one position."""
        path, length = self.paths[split], self.block_size + 1
        starts = torch.randint(path.stat().st_size // 2 - self.block_size, (self.batch_size,)).tolist()
        self.starts[split] = starts
        crops = bytearray()
        with open(path, "rb", buffering=0) as file:  # faster than a memory map, and keeps no pages in memory
            for start in starts:
                file.seek(2 * start)
                crops += file.read(2 * length)
        both = torch.from_numpy(np.frombuffer(crops, np.uint16).reshape(-1, length).astype(np.int64))  # (B, T + 1)
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    def state_dict(self) -> dict[str, Any]:
        """Return the start positions of the last training batch; torch's RNG state alone determines the next one."""
        return {"starts": self.starts.get("train", [])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the start positions of the last training batch."""
        self.starts["train"] = list(state["starts"])

    def fingerprint(self) -> str:
        """Return a short hash of the sizes and of samples of both files; large files take milliseconds, too."""
        digest = hashlib.sha256()
        for path in self.paths.values():
            size = path.stat().st_size
            digest.update(f"{path.name} {size} ".encode())
            with open(path, "rb", buffering=0) as file:
                digest.update(file.read(ENDS_BYTES))
                file.seek(max(size - ENDS_BYTES, 0))
                digest.update(file.read(ENDS_BYTES))
                for block in range(BLOCKS):
                    file.seek(size * block // BLOCKS)
                    digest.update(file.read(BLOCK_BYTES))
        return digest.hexdigest()[:16]

    def check_vocab(self, vocab_size: int) -> None:
        """Raise DataError when a token id is outside the model's vocabulary."""
        for split in SPLITS:
            tokens = np.memmap(self.paths[split], dtype=np.uint16, mode="r")
            largest = int(tokens[:SCANNED_TOKENS].max())
            if largest >= vocab_size:
                raise DataError(
                    f"{self.paths[split]} holds token id {largest}, but the model has ids below {vocab_size}: "
                    "the data set was prepared with another tokenizer than the model's, or meta.pkl is out of date"
                )

    def _check(self, path: Path) -> None:
        """Raise DataError when a file is missing, damaged or too short."""
        script = self.folder / "prepare.py"
        remedy = (
            f"run `python {script}`"
            if script.exists()
            else f"set dataset to one of: {_prepared_sets(self.folder.parent)}"
        )
        again = f"run `python {script}` again" if script.exists() else "prepare the data set again"
        if not path.is_file():
            raise DataError(f"no data at {path}: {remedy}")
        size = path.stat().st_size
        if size % 2:
            raise DataError(f"{path} has {size} bytes, which is odd: not a file of 2-byte tokens; {again}")
        if size // 2 <= self.block_size:
            raise DataError(
                f"{path} has {size // 2} tokens, wanted more than block_size={self.block_size}: "
                "use more text or a smaller block_size"
            )


def _prepared_sets(folder: Path) -> str:
    """Return the names of the data sets in a folder that have a train.bin."""
    names = sorted(path.parent.name for path in folder.glob("*/train.bin"))
    return ", ".join(names) or f"none is prepared yet (see {folder}/*/prepare.py)"
