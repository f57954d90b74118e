"""The queue of one split: a folder of batch files, numbered in the order they were made."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import DataError
from core.files import PARTIAL, require_file, write_bytes_atomically
from data.streaming.batch_file import StoredBatch, write_batches

TAKEN = "taken"  # sub-folder of files that training has opened and no checkpoint covers yet
MARK = ".next"  # file that holds the number of the next file
NAME = re.compile(r"(\d+)-(\d+)-(\d+)\.pt")


class QueueFile(NamedTuple):
    """A complete file of the queue; its name holds the number and how many batches the file holds."""

    number: int
    path: Path

    @property
    def batches(self) -> int:
        """Number of batches in the file."""
        return int(self.path.stem.rpartition("-")[2])


class Queue:
    """The files of one split: new ones in `folder`, those that training has taken in `folder/taken` until `release`.

    A file is named `<ms>-<number>-<batches>.pt`; ms is its creation time in milliseconds since 1970. Numbers count up
    from 0 and are never used again, even when the queue is empty. Only one process may add files. Several processes may
    take and release files, but no two of them the same file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def waiting(self) -> list[QueueFile]:
        """Return the files that are not taken, in the order of their numbers."""
        return _listed(self.folder)

    def files(self) -> list[QueueFile]:
        """Return all files, taken or not, in the order of their numbers."""
        # the folder that files are moved from is read first: a file that moves meanwhile is seen twice, not missed
        by_number = {file.number: file for where in (self.folder, self.folder / TAKEN) for file in _listed(where)}
        return [by_number[number] for number in sorted(by_number)]

    def take(self, file: QueueFile) -> QueueFile:
        """Move a file to `folder/taken`, so that the producer makes another one. Return the moved file."""
        target = self.folder / TAKEN / file.path.name
        if file.path != target:
            target.parent.mkdir(exist_ok=True)
            os.replace(file.path, target)
        return QueueFile(file.number, target)

    def release(self, file: QueueFile) -> None:
        """Delete a file; a file that is already deleted is no error."""
        file.path.unlink(missing_ok=True)

    def next_number(self) -> int:
        """Return the number of the next file."""
        mark = self.folder / MARK
        try:
            require_file(mark)
            marked = int(mark.read_text())
        except FileNotFoundError:
            marked = 0
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot read {mark} ({error}): remove {self.folder}, and its files are made again"
            ) from None
        return max([marked, *(file.number + 1 for file in self.files())])

    def add(self, number: int, batches: Sequence[StoredBatch], metadata: Mapping[str, Any]) -> Path:
        """Write a new file atomically and mark its number as used. Return its path.

        If the process is killed between the two, and training consumes the file before the next start, the same file is
        made once more. Nothing else can happen.
        """
        path = self.folder / f"{metadata['produced_at']}-{number:06d}-{len(batches)}.pt"
        write_batches(path, batches, metadata)
        mark = self.folder / MARK
        try:
            write_bytes_atomically(mark, str(number + 1).encode())
        except OSError as error:
            raise DataError(f"cannot write {mark} ({error})") from error
        return path

    def remove_partial_files(self) -> None:
        """Remove the incomplete files of a producer that was killed."""
        for path in self.folder.glob(f"*{PARTIAL}"):
            path.unlink(missing_ok=True)


def _listed(folder: Path) -> list[QueueFile]:
    """Return the files in a folder in the order of their numbers; an absent folder has none."""
    names: list[str] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        names = os.listdir(folder)
    found = ((NAME.fullmatch(name), name) for name in names)
    return sorted(QueueFile(int(match[2]), folder / name) for match, name in found if match)
