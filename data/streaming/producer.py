"""Keeps the queue of a data set filled."""

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import ConfigError, DataError
from data.meta import read_meta, write_meta
from data.private_rng import generator
from data.streaming.provider import Provider
from data.streaming.queue import SPLITS, Queue

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("coregpt")
LOCK = ".lock"
SHAPE = (  # what must not change on the way; of files of several lengths, one rank would wait for another
    "training_type", "batch_size", "block_size", "target_size", "vocab_size", "largest_token_id", "seed",
    "batches_per_file",
)  # fmt: skip
VOCABULARY = ("vocab_size", "stoi")


class Producer:
    """Makes files until the queue of each split has as many as it may, and again whenever one is taken.

    What is in file n of a split follows from the seed, the split and n alone, whenever and by whom it is made.

    max_backlog_files: files of a split that may wait at once
    sleep_seconds:     time between looks at a queue that is full
    say:               gets a line about each file
    """

    def __init__(
        self,
        folder: str | Path,
        provider: Provider,
        *,
        seed: int = 1337,
        batches_per_file: int = 100,
        max_backlog_files: int = 2,
        say: Callable[[str], None] = log.info,
        sleep_seconds: float = 2.0,
    ) -> None:
        self.folder = Path(folder)
        self.provider = provider
        self.batches_per_file = batches_per_file
        self.max_backlog_files = max_backlog_files
        self.sleep_seconds = sleep_seconds
        self.seed = seed
        self.say = say
        self.queues = {split: Queue(self.folder / "queue" / split) for split in SPLITS}

    def run(self, files: int | None = None, once: bool = False) -> int:
        """Fill the queue, for ever, until Ctrl-C. Return how many files were made.

        files: stop after that many of the training split; of validation, as many, or as fit
        once:  stop as soon as the queue is full
        """
        made = dict.fromkeys(SPLITS, 0)
        self._require_own_folder()
        lock = self._claim()
        try:
            self._write_meta()
            for queue in self.queues.values():
                queue.clear_parts()
            while True:
                due = [split for split in SPLITS if made[split] != files and self.has_room(split)]
                for split in due:
                    self.produce(split)
                    made[split] += 1
                if not due and (once or made["train"] == files):
                    break
                if not due:
                    time.sleep(self.sleep_seconds)
        except KeyboardInterrupt:
            self.say("stopped by Ctrl-C; what is in the queue is whole, and the next start goes on after it")
        finally:
            os.close(lock)
        return sum(made.values())

    def has_room(self, split: str) -> bool:
        """Tell whether another file may be made."""
        return len(self.queues[split].waiting()) < self.max_backlog_files

    def produce(self, split: str) -> Path:
        """Make the next file of a split, whether there is room or not. Return its path."""
        queue = self.queues[split]
        number = queue.next_number()
        draw = generator(self.seed, SPLITS.index(split), number)
        batches = self.provider.batches(split, self.batches_per_file, draw)
        about = {
            "batch_size": len(batches[0].tensors["input"]),
            "num_batches": len(batches),
            "file_idx": number,
            "split": split,
            "seed": self.seed,
            "produced_at": time.time_ns() // 1_000_000,
        }
        path = queue.add(number, batches, about)
        self.say(f"made {path}")
        return path

    def _claim(self) -> int:
        """Make the folders, and see that no other producer numbers files here. The lock dies with the process."""
        try:
            for queue in self.queues.values():
                queue.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / "queue" / LOCK, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise DataError(f"cannot write to {self.folder / 'queue'} ({error.strerror or error})") from error
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                os.close(lock)
                raise ConfigError(f"another process is filling {self.folder / 'queue'}: one is enough") from None
            log.warning(f"{self.folder} knows no locks ({error}): see that only one process fills its queue")
        return lock

    def _require_own_folder(self) -> None:
        """Raise DataError where meta.pkl is, or is missing, for the sake of a text with another vocabulary."""
        bins, path = self.folder / "train.bin", self.folder / "meta.pkl"
        if not bins.exists():
            return
        old, new = read_meta(path) if path.exists() else {}, self.provider.meta
        if any(old.get(key) != new.get(key) for key in VOCABULARY):
            size = old.get("vocab_size", "GPT-2's")
            raise DataError(
                f"{bins} has another vocabulary ({size}) than the queue ({new['vocab_size']}), and {path} can tell of "
                f"one only: give the queue a folder of its own with --dataset=NAME --source_data_dir={self.folder}"
            )

    def _write_meta(self) -> None:
        path = self.folder / "meta.pkl"
        meta = {**self.provider.meta, "seed": self.seed}
        files = [file for queue in self.queues.values() for file in queue.files()]
        if files and path.exists():
            sizes = {file.batches for file in files} - {self.batches_per_file}
            old = {**read_meta(path), "batches_per_file": min(sizes, default=self.batches_per_file)}
            _require_same(old, {**meta, "batches_per_file": self.batches_per_file}, self.folder)
        write_meta(path, meta)


def _require_same(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    """Raise ConfigError where files to come would not go with those that wait."""
    changes = [f"{key}={old[key]!r}, now {new.get(key)!r}" for key in SHAPE if key in old and old[key] != new.get(key)]
    if changes:
        raise ConfigError(
            f"the files in {folder / 'queue'} were made with {'; '.join(changes)}: let training consume them first, "
            "or remove that folder"
        )
