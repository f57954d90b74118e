"""The queue of one split: a folder of batch files, numbered in the order they were made."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import DataError
from data.streaming.batch_file import ASIDE, StoredBatch, write_batches

SPLITS = ("train", "val")
TAKEN = "taken"  # sub-folder of files that a trainer is using or has used, and no checkpoint covers yet
MARK = ".next"  # holds the number of the file to be made next
NAME = re.compile(r"(\d+)-(\d+)-(\d+)\.pt")


class QueueFile(NamedTuple):
    """A finished file: its number, where it lies, and how many batches it holds."""

    number: int
    path: Path

    @property
    def batches(self) -> int:
        """As many as its name says."""
        return int(self.path.stem.rpartition("-")[2])


class Queue:
    """Finished files wait in `folder`; taken ones lie in `folder/taken` until they are released.

    A file is named `<ms>-<number>-<batches>.pt`, ms being the time of its making in milliseconds since 1970. Numbers
    count up from 0 and are never used again, whatever has been consumed. One process may add files; files may be taken
    and released by several, as long as each file has one of them to care for it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def waiting(self) -> list[QueueFile]:
        """Return the files that nobody has taken, in the order of their numbers."""
        return _listed(self.folder)

    def files(self) -> list[QueueFile]:
        """Return all files, taken or not, in the order of their numbers."""
        # the folder that files are moved from is read first: one that moves meanwhile is seen twice, not never
        by_number = {file.number: file for where in (self.folder, self.folder / TAKEN) for file in _listed(where)}
        return [by_number[number] for number in sorted(by_number)]

    def take(self, file: QueueFile) -> QueueFile:
        """Move a file out of the producer's sight, so that another can take its place. Return it as it is now."""
        target = self.folder / TAKEN / file.path.name
        if file.path != target:
            target.parent.mkdir(exist_ok=True)
            os.replace(file.path, target)
        return QueueFile(file.number, target)

    def release(self, file: QueueFile) -> None:
        """Delete a file for good; one that is gone already is fine."""
        file.path.unlink(missing_ok=True)

    def next_number(self) -> int:
        """Return the number of the file to be made next."""
        mark = self.folder / MARK
        try:
            marked = int(mark.read_text())
        except FileNotFoundError:
            marked = 0
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot read {mark} ({error}): remove {self.folder}, and its files are made anew"
            ) from None
        return max([marked, *(file.number + 1 for file in self.files())])

    def add(self, number: int, batches: Sequence[StoredBatch], metadata: Mapping[str, Any]) -> Path:
        """Put a new file at the end, in one step. Return its path.

        The number is marked as used afterwards. A kill in between, the file consumed and released before the next
        start, would have the same file made once more; that is all it would do.
        """
        path = self.folder / f"{metadata['produced_at']}-{number:06d}-{len(batches)}.pt"
        write_batches(path, batches, metadata)
        mark = self.folder / MARK
        aside = mark.with_name(MARK + ASIDE)
        try:
            aside.write_text(str(number + 1))
            os.replace(aside, mark)
        except OSError as error:
            raise DataError(f"cannot write {mark} ({error})") from error
        return path

    def clear_parts(self) -> None:
        """Remove what a producer that was killed has left half written."""
        for path in self.folder.glob(f"*{ASIDE}"):
            path.unlink(missing_ok=True)


def _listed(folder: Path) -> list[QueueFile]:
    names: list[str] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        names = os.listdir(folder)
    found = ((NAME.fullmatch(name), name) for name in names)
    return sorted(QueueFile(int(match[2]), folder / name) for match, name in found if match)
