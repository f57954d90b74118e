"""TokenBins, the data source of random crops of train.bin and val.bin, nanoGPT's files of token ids."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.losses import SPLITS
from data.meta import read_meta
from data.token_file import TokenFile

ENDS_BYTES, BLOCKS, BLOCK_BYTES = 2**20, 64, 4096  # a fingerprint reads both ends and evenly spaced blocks


class TokenBins:
    """A data source: `get_batch(split)` returns inputs and targets, each (B, T) int64.

    device: where the batches are; a run leaves them on the CPU and copies them to a GPU while it computes
    meta:   what the ids stand for, if the folder has no meta.pkl

    Start positions are drawn from torch's global generator, as in nanoGPT. `starts` holds the start positions of the
    last batch of each split, in tokens. Raises DataError in the constructor if a file is missing, too short, or no
    token file, and in `get_batch` if a batch has an id outside the vocabulary that `check_vocab` was given.
    """

    def __init__(
        self,
        folder: str | Path,
        block_size: int,
        batch_size: int,
        device: torch.device | str = "cpu",
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.block_size = block_size
        self.batch_size = batch_size
        self.device = device
        self._meta = meta
        self.starts: dict[str, list[int]] = {}
        self.files = {split: TokenFile(self.folder / f"{split}.bin", *self._needed()) for split in SPLITS}

    @property
    def paths(self) -> dict[str, Path]:
        """Path of the token file of each split."""
        return {split: file.path for split, file in self.files.items()}

    @property
    def meta_path(self) -> Path:
        """Path of the data set's meta.pkl, which may be absent."""
        return self.folder / "meta.pkl"

    @cached_property
    def meta(self) -> Mapping[str, Any] | None:
        """The content of meta.pkl, which says what the ids stand for; None for GPT-2's, a data set without the file."""
        return read_meta(self.meta_path) if self.meta_path.exists() else self._meta

    @property
    def vocab_size(self) -> int | None:
        """Size of the vocabulary; None for a data set without meta.pkl."""
        return None if self.meta is None else int(self.meta["vocab_size"])

    def get_batch(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a random batch; the targets are the inputs shifted by one position."""
        file, length = self.files[split], self.block_size + 1
        count = len(file)
        if count < length:
            file.require(*self._needed())
        starts = torch.randint(count - self.block_size, (self.batch_size,)).tolist()
        self.starts[split] = starts
        ids = file.read(starts, [length] * self.batch_size)
        both = torch.from_numpy(ids.reshape(-1, length).astype(np.int64)).to(self.device)  # (B, T + 1)
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
        """Raise DataError when a token id is outside the model's vocabulary; batches are checked from now on.

        Whatever else reads `files`, such as masked texts, gets the same check.
        """
        for file in self.files.values():
            file.check_vocab(vocab_size)

    def _needed(self) -> tuple[int, str]:
        """Return the smallest number of tokens of a file, and the same in words."""
        return self.block_size + 1, f"more than block_size={self.block_size}"
