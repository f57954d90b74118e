"""A data set that is being made: token files that grow, a record of how far they go, and the move to their place."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from core.errors import DataError
from core.files import flush_folder, make_folder, remove, write_bytes_atomically
from data.meta import read_meta, write_meta
from data.token_file import token_dtype
from data.tokenizers import Tokenizer, tokenizer_from_meta

UNFINISHED = "prepare.unfinished"  # sub-folder of the data set's folder
RECORD, META, LOCK = "record.json", "meta.pkl", "lock"
SAVE_BYTES = 2**25  # of ids between two records; what a kill can lose
FORMAT = 1


class UnfinishedDataSet:
    """The files of a data set before it is complete, in a sub-folder of `folder`, and what is known of them.

    arguments: what determines the files, as JSON holds it; files that were made with others are removed

    record: what a process that goes on needs to know; `save` writes it. Its entry `tokens` has the number of ids in
    each token file that count; what a file has after them was written by a process that was killed.
    """

    def __init__(self, folder: Path, arguments: Mapping[str, Any]) -> None:
        self.folder, self.path = folder, folder / UNFINISHED
        self.record: dict[str, Any] = {}
        wanted = json.loads(json.dumps({"format": FORMAT, **arguments}))
        make_folder(self.path)
        self._lock = _lock(self.path / LOCK, folder)
        record = self._read()
        self.is_continued = record is not None and record.get("arguments") == wanted
        if record is not None and self.is_continued:
            self.record = record
            return
        for name in os.listdir(self.path):
            if name != LOCK:
                remove(self.path / name)
        self.record = {"arguments": wanted, "tokens": {"train": 0, "val": 0}}

    def __enter__(self) -> Self:
        """Return self; the block ends with `close`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let another process go on with the files."""
        self.close()

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()

    def _read(self) -> dict[str, Any] | None:
        try:
            record = json.loads((self.path / RECORD).read_bytes())
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def save(self, **changes: Any) -> None:
        """Write the record, with changes."""
        self.record.update(changes)
        write_bytes_atomically(self.path / RECORD, json.dumps(self.record).encode())

    def keep_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Write meta.pkl; a tokenizer without one, GPT-2's, writes none."""
        meta = tokenizer.meta()
        if meta is not None:
            dtype = token_dtype({"vocab_size": tokenizer.vocab_size}, self.path / META)
            write_meta(self.path / META, meta if dtype == np.uint16 else {**meta, "dtype": dtype.name})
        self.save(has_meta=meta is not None)

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer that was kept."""
        return tokenizer_from_meta(read_meta(self.path / META) if (self.path / META).exists() else None)

    def append(self, split: str, chunks: Iterable[tuple[int, npt.NDArray[Any]]], dtype: np.dtype[Any]) -> None:
        """Add ids to a token file, from where the record says that it ends, and save the record now and then.

        chunks: (progress in the text, ids) of each chunk; the record's entry `done` is the sum of the progress
        """
        tokens, unsaved = self.record["tokens"], 0
        with open(self.path / f"{split}.bin", "ab") as file:
            file.truncate(tokens[split] * dtype.itemsize)
            for units, ids in chunks:
                file.write(ids.data)
                tokens[split] += ids.size
                self.record["done"] = self.record.get("done", 0) + units
                unsaved += ids.nbytes
                if unsaved >= SAVE_BYTES:
                    self._save_with(file)
                    unsaved = 0
            self._save_with(file)

    def _save_with(self, file: IO[bytes]) -> None:
        """Save the record when all that it counts is on the disk."""
        file.flush()
        os.fsync(file.fileno())
        self.save()

    def divide(self, ends_row: int, val_fraction: float, dtype: np.dtype[Any]) -> None:
        """Move about the last `val_fraction` of the ids in train.bin to val.bin, divided after an id `ends_row`.

        Raises DataError if there are not two rows.
        """
        train, val, tokens = self.path / "train.bin", self.path / "val.bin", self.record["tokens"]
        if "cut" not in self.record:
            ids: Any = np.memmap(train, dtype, "r") if tokens["train"] else np.empty(0, dtype)
            cut = _row_end(ids, ends_row, int(len(ids) * (1 - val_fraction)))
            with open(val, "wb") as file:
                for begin in range(cut, len(ids), SAVE_BYTES):
                    file.write(np.asarray(ids[begin : begin + SAVE_BYTES]).data)
                file.flush()
                os.fsync(file.fileno())
            self.save(cut=cut, tokens={"train": cut, "val": len(ids) - cut})
        os.truncate(train, self.record["cut"] * dtype.itemsize)

    def finish(self) -> tuple[int, int]:
        """Move the files into the folder, which replaces a data set there. Return the token counts of both splits.

        The old val.bin is removed first and the new one comes last, so that a data set with val.bin is never a mixture.
        A process that was killed in here is continued by the next one.
        """
        counts = self.record["tokens"]["train"], self.record["tokens"]["val"]
        for split, count in zip(("train", "val"), counts, strict=True):
            if count < 2:
                raise DataError(f"the text is too short: {count} tokens for {split}.bin, wanted 2 or more")
        self.save(complete=True)
        if (self.path / "val.bin").exists():  # else all files were moved, and the folder holds the new ones
            remove(self.folder / "val.bin")
        if (self.path / "train.bin").exists() and not self.record["has_meta"]:
            remove(self.folder / META)
        for name in (META, "train.bin", "val.bin"):
            if (self.path / name).exists():
                os.replace(self.path / name, self.folder / name)
        flush_folder(self.folder)
        self.discard()
        return counts

    def discard(self) -> None:
        """Remove the sub-folder, and the folder if it is empty then."""
        remove(self.path / RECORD)  # first: without it nothing of the rest counts
        self.close()
        remove(self.path)
        with suppress(OSError):
            self.folder.rmdir()


def _row_end(ids: Any, ends_row: int, position: int) -> int:
    """Return where the first row ends that has an id at `position` or after it, or where the last row but one ends."""
    for begin in range(position, len(ids), SAVE_BYTES):
        found = np.flatnonzero(ids[begin : begin + SAVE_BYTES] == ends_row)
        if found.size and begin + int(found[0]) + 1 < len(ids):
            return begin + int(found[0]) + 1
        if found.size:
            break
    for end in range(len(ids) - 1, 0, -SAVE_BYTES):
        begin = max(end - SAVE_BYTES, 0)
        found = np.flatnonzero(ids[begin:end] == ends_row)
        if found.size:
            return begin + int(found[-1]) + 1
    raise DataError("the data set has a single row with text, wanted 2 or more: one for training, one for validation")


def _lock(path: Path, folder: Path) -> IO[bytes] | None:
    """Return the open file whose lock this process holds until it ends; DataError if another process holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    file = open(path, "ab")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DataError(f"another process prepares {folder}: wait for it, or choose another folder") from None
    except OSError:  # the file system has no locks
        return file
    return file
