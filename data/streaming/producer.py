"""Fills the queue of a data set."""

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import ConfigError, DataError
from core.losses import SPLITS
from data.meta import read_meta, write_meta
from data.private_rng import generator
from data.streaming.provider import Provider
from data.streaming.queue import Queue

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("coregpt")
LOCK = ".lock"
SHAPE = (  # must be the same for all files in a queue; with files of several lengths ranks would wait for each other
    "training_type", "batch_size", "block_size", "target_size", "vocab_size", "largest_token_id", "seed",
    "batches_per_file",
)  # fmt: skip
VOCABULARY = ("vocab_size", "stoi")


class Producer:
    """Makes files until the queue of each split is full, and again whenever training takes one.

    The content of file n of a split depends only on the seed, the split, n and the provider.

    max_backlog_files: maximum number of files of a split that are not taken
    sleep_seconds:     time between checks of a full queue
    say:               called with a line of text for each file
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
        """Fill the queue until Ctrl-C. Return the number of files made.

        files: stop after this many training files, and at most as many validation files
        once:  stop as soon as the queue is full

        Raises ConfigError when another process fills the queue or its files were made with other settings, DataError
        when the folder cannot be written or holds a text with another vocabulary.
        """
        made = dict.fromkeys(SPLITS, 0)
        self._require_same_vocabulary()
        lock = self._lock()
        try:
            self._write_meta()
            for queue in self.queues.values():
                queue.remove_partial_files()
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
            self.say("stopped by Ctrl-C; the files in the queue are complete, and the next start goes on after them")
        finally:
            os.close(lock)
        return sum(made.values())

    def has_room(self, split: str) -> bool:
        """Return whether the queue of a split has room for another file."""
        return len(self.queues[split].waiting()) < self.max_backlog_files

    def produce(self, split: str) -> Path:
        """Make the next file of a split, even if the queue is full. Return its path."""
        queue = self.queues[split]
        number = queue.next_number()
        draw = generator(self.seed, SPLITS.index(split), number)
        batches = self.provider.batches(split, self.batches_per_file, draw)
        metadata = {
            "batch_size": len(batches[0].tensors["input"]),
            "num_batches": len(batches),
            "file_idx": number,
            "split": split,
            "seed": self.seed,
            "produced_at": time.time_ns() // 1_000_000,
        }
        path = queue.add(number, batches, metadata)
        self.say(f"made {path}")
        return path

    def _lock(self) -> int:
        """Make the folders and lock the queue against other producers; return the lock's file descriptor.

        The operating system releases the lock when the process ends.
        """
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
                raise ConfigError(f"another process is filling {self.folder / 'queue'}: stop one of the two") from None
            log.warning(f"cannot lock {self.folder} ({error}): make sure that only one process fills its queue")
        return lock

    def _require_same_vocabulary(self) -> None:
        """Raise DataError if the folder holds a text whose vocabulary meta.pkl would no longer describe."""
        bins, path = self.folder / "train.bin", self.folder / "meta.pkl"
        if not bins.exists():
            return
        old, new = read_meta(path) if path.exists() else {}, self.provider.meta
        if any(old.get(key) != new.get(key) for key in VOCABULARY):
            size = old.get("vocab_size", "GPT-2's")
            raise DataError(
                f"{bins} has another vocabulary ({size}) than the queue ({new['vocab_size']}), and {path} can describe "
                f"only one: give the queue a folder of its own with --dataset=NAME --source_data_dir={self.folder}"
            )

    def _write_meta(self) -> None:
        """Write meta.pkl; ConfigError if files with other settings wait in the queue."""
        path = self.folder / "meta.pkl"
        meta = {**self.provider.meta, "seed": self.seed}
        files = [file for queue in self.queues.values() for file in queue.files()]
        if files and path.exists():
            sizes = {file.batches for file in files} - {self.batches_per_file}
            old = {**read_meta(path), "batches_per_file": min(sizes, default=self.batches_per_file)}
            _require_same(old, {**meta, "batches_per_file": self.batches_per_file}, self.folder)
        write_meta(path, meta)


def _require_same(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    """Raise ConfigError if the meta of the files in the queue and that of new files differ in SHAPE."""
    changes = [f"{key}={old[key]!r}, now {new.get(key)!r}" for key in SHAPE if key in old and old[key] != new.get(key)]
    if changes:
        raise ConfigError(
            f"the files in {folder / 'queue'} were made with {'; '.join(changes)}: let training consume them first, "
            "or remove that folder"
        )
