"""DatasetConsumer, the data source that reads the batches of a queue."""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch

from core.commands import command
from core.errors import DataError, WarnOnce
from core.losses import SPLITS
from data.meta import read_meta
from data.prepare_scripts import STREAM
from data.streaming.batch_file import StoredBatch, check_ids, read_batches
from data.streaming.queue import Queue, QueueFile

log = logging.getLogger("coregpt")
T = TypeVar("T")
Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor] | dict[str, torch.Tensor | str]
LANGUAGE_MODEL = "LM"  # training_type in meta.pkl of a queue for next-token prediction


class DatasetConsumer:
    """A data source: `get_batch(split)` returns the next batch of the queue, and waits if there is none.

    For next-token prediction a batch is `(inputs, targets)`, for other tasks a dict: `input` (B, T) int64, `target`
    (B, T) int64 or (B,) float32, `stage` (B,) int64 if rows have stages, the other tensors of the file, and
    `model_mode`, the kind of model that the provider made the batch for.

    Training file n is read by rank n modulo world_size. An opened file is moved to the queue's folder `taken`, and
    deleted only by `release`. Validation files are never moved.

    `state_dict` holds the next file and the position in it. Without a state, or with one of another number of ranks,
    training starts from the oldest file that is not released: batches may repeat, but none is lost.

    wait_sleep_seconds:   time between checks of an empty queue
    wait_timeout_seconds: maximum wait, then DataError; None waits without limit

    Raises DataError in the constructor if the queue or meta.pkl is missing, or a file of this rank is damaged.
    """

    def __init__(
        self,
        data_dir: str | Path,
        batch_size: int,
        block_size: int | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
        wait_sleep_seconds: float = 1.0,
        wait_timeout_seconds: float | None = None,
    ) -> None:
        self.folder = Path(data_dir)
        self.batch_size = batch_size
        self.block_size = block_size
        self.rank = rank
        self.world_size = world_size
        self.wait_sleep_seconds = wait_sleep_seconds
        self.wait_timeout_seconds = wait_timeout_seconds
        self.queues = {split: Queue(self.folder / "queue" / split) for split in SPLITS}

        self._next: int | None = None  # number of the file with the next training batch; None: the oldest
        self._offset = 0  # index of the next training batch in that file
        self._last: int | None = None  # number of the file with the last training batch
        self._open: tuple[int, list[StoredBatch]] | None = None  # number and batches of the open training file
        self._eval_next: dict[str, tuple[int, int]] = {}  # by split: file and index of the next evaluation batch
        self._eval_open: dict[str, tuple[int, list[StoredBatch]]] = {}  # by split: the open evaluation file
        self._model_vocab_size: int | None = None  # ids in files must be below it; None until `check_vocab`
        self._warn_once = WarnOnce()
        self._check()

    # data set

    @property
    def meta_path(self) -> Path:
        """Path of the data set's meta.pkl."""
        return self.folder / "meta.pkl"

    @cached_property
    def meta(self) -> dict[str, Any]:
        """Content of meta.pkl: the vocabulary, the training type and the shape of the batches."""
        return read_meta(self.meta_path)

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, [CLS] included."""
        return max(int(self.meta["vocab_size"]), (self.meta.get("cls_token_id") or 0) + 1)

    def check_vocab(self, vocab_size: int) -> None:
        """Raise DataError when batches may have token ids outside the model's vocabulary.

        From now on a file with such an id is refused when it is opened.
        """
        self._model_vocab_size = vocab_size
        needed = self.meta.get("largest_token_id", self.vocab_size - 1) + 1
        if vocab_size < needed:
            raise DataError(
                f"{self.meta_path} has {needed} token ids, but the model only {vocab_size}: "
                "the queue was filled for another model"
            )

    def fingerprint(self) -> str:
        """Return a short hash of meta.pkl; the files of a queue change all the time."""
        return hashlib.sha256(self.meta_path.read_bytes()).hexdigest()[:16]

    def wait(self) -> None:
        """Wait until there is a training file for this rank and a validation file; DataError after the maximum wait."""
        self._wait(lambda: self._own_file(0), "train")
        self._wait(self.queues["val"].files, "val")

    # batches

    def get_batch(self, split: str) -> Batch:
        """Return the next training batch and consume it; for `val`, return `get_eval_batch("val")`."""
        if split != "train":
            return self.get_eval_batch(split)
        number, batches = self._training_file()
        batch = self._prepared(batches[self._offset])
        # the position changes only after the batch is complete: an interrupted wait loses no batch
        done = self._offset + 1 == len(batches)
        self._last, self._next = number, number + self.world_size if done else number
        self._offset = 0 if done else self._offset + 1
        self._eval_next.clear()
        return batch

    def get_eval_batch(self, split: str) -> Batch:
        """Return the next batch of an evaluation; nothing is consumed.

        `val` cycles through all validation files, `train` through the file of the last training batch, as the newest
        file would depend on the producer's speed. The first call after a training batch starts from the beginning.
        """
        number, offset = self._eval_next.get(split, (0, 0))
        found, batches = self._evaluation_file(split, number)
        offset = offset if found == number else 0
        batch = self._prepared(batches[offset])
        self._eval_next[split] = (found + 1, 0) if offset + 1 == len(batches) else (found, offset + 1)
        return batch

    # position in the queue

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the queue: plain values."""
        position = {"file": self._next, "offset": self._offset, "last_file": self._last}
        return {**position, "rank": self.rank, "world_size": self.world_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a position; the state of another number of ranks starts from the oldest file."""
        self._eval_next.clear()
        if (state["rank"], state["world_size"]) != (self.rank, self.world_size):
            log.warning(
                f"the queue was read by {state['world_size']} processes and is now read by {self.world_size}: "
                "starting from its oldest file; batches may repeat, none is lost"
            )
            state = {"file": None, "offset": 0, "last_file": None}
        self._next, self._offset, self._last = state["file"], state["offset"], state["last_file"]

    def first_needed(self, states: Sequence[dict[str, Any]]) -> int:
        """Return the number of the first file that this rank needs to resume from a checkpoint.

        states: the states of all ranks in the checkpoint

        It is the file of the last batch, because that batch was drawn but not yet trained on. A checkpoint of another
        number of ranks needs every file that any of those ranks had not finished.
        """
        own = [state for state in states if (state["rank"], state["world_size"]) == (self.rank, self.world_size)]
        return min(state["last_file"] or 0 for state in own or states)

    def release(self, number: int) -> int:
        """Delete this rank's training files with numbers below `number`. Return how many.

        Call it on every rank with the smallest `first_needed` of all checkpoints that the run may still load.
        """
        covered = [file for file in self._own_files() if file.number < number]
        for file in covered:
            self.queues["train"].release(file)
        return len(covered)

    # files

    def _check(self) -> None:
        """Check the queue, meta.pkl, and every file that this rank may read; rank 0 checks the validation files."""
        if not (self.folder / "queue").is_dir():
            raise DataError(f"no queue at {self.folder / 'queue'}: {self._remedy()}")
        if "training_type" not in self.meta:
            raise DataError(f"{self.meta_path} has no training_type: {self._remedy()}")
        if self.meta["training_type"] == LANGUAGE_MODEL and {"block_size", "target_size"} <= self.meta.keys():
            _require_equal(self.folder / "queue", self.meta["block_size"], self.meta["target_size"])
        files = [*self._own_files(), *(self.queues["val"].files() if self.rank == 0 else [])]
        for file in files:
            self._read(file)

    def _own_files(self) -> list[QueueFile]:
        """Return the training files of this rank."""
        return [file for file in self.queues["train"].files() if file.number % self.world_size == self.rank]

    def _training_file(self) -> tuple[int, list[StoredBatch]]:
        """Return the number and the batches of the file with the next training batch."""
        if self._open is None or self._open[0] != self._next:
            file = self._wait(self._find_next, "train")
            if self._next is not None and file.number != self._next:
                if self._offset:
                    raise DataError(
                        f"training stopped in the middle of file {self._next:06d}, which is no longer in "
                        f"{self.queues['train'].folder}: put it back, or start from the oldest file with "
                        "--resume_rng=reseed"
                    )
                log.warning(
                    f"file {self._next:06d} of {self.queues['train'].folder} is missing; going on with the next one"
                )
            batches = self._read(file)
            self.queues["train"].take(file)
            self._open, self._next = (file.number, batches), file.number
        if self._offset >= len(self._open[1]):
            raise DataError(
                f"training stopped at batch {self._offset} of file {self._open[0]:06d} in "
                f"{self.queues['train'].folder}, which now holds {len(self._open[1])}: it was made again with "
                "other settings; start from the oldest file with --resume_rng=reseed"
            )
        return self._open

    def _find_next(self) -> QueueFile | None:
        """Return the file with the next training batch, None if there is none yet."""
        found = self._own_file(self._next or 0)
        if found and found.number != self._next:  # a listing can miss a file that is renamed meanwhile: list again
            found = self._own_file(self._next or 0)
        if not found:
            self._take_earlier_files()
        return found

    def _take_earlier_files(self) -> None:
        """Take the files before the next one: after a queue was emptied by hand they would block the producer."""
        for file in self.queues["train"].waiting():
            if file.number % self.world_size == self.rank and file.number < (self._next or 0):
                self.queues["train"].take(file)

    def _own_file(self, number: int) -> QueueFile | None:
        """Return this rank's first training file with this number or a higher one."""
        return next((file for file in self._own_files() if file.number >= number), None)

    def _evaluation_file(self, split: str, number: int) -> tuple[int, list[StoredBatch]]:
        """Return the number and the batches of the file to evaluate on.

        number: of the wanted validation file; if there is no such file or later one, the first file is returned
        """
        if split == "train":
            last = self._next if self._last is None else self._last
            file = self._wait(lambda: self._own_file(last or 0), split)
        else:
            files = self._wait(self.queues[split].files, split)
            file = next((file for file in files if file.number >= number), files[0])
            if file.number < number:
                self._warn_once(
                    f"an evaluation needs more batches than {self.queues[split].folder} holds now: batches repeat, and "
                    "another file would change the loss; lower eval_iters, or fill the queue with a larger "
                    "max_backlog_files before training"
                )
        for opened in (self._open if split == "train" else None, self._eval_open.get(split)):
            if opened and opened[0] == file.number:
                return opened
        self._eval_open[split] = file.number, self._read(file)
        return self._eval_open[split]

    def _wait(self, find: Callable[[], T | None], split: str) -> T:
        """Call `find` until the result is true, and return it. Raises DataError after `wait_timeout_seconds`."""
        began, logged = time.monotonic(), False
        while not (found := find()):
            waited = time.monotonic() - began
            limit = self.wait_timeout_seconds
            reader = f" for rank {self.rank} of {self.world_size}" if self.world_size > 1 else ""
            wanted = f"a file{reader} in {self.queues[split].folder}"
            if limit is not None and waited >= limit:
                raise DataError(f"waited {waited:.0f} s (data_wait_timeout_seconds) for {wanted}: {self._remedy()}")
            if not logged:
                log.info(f"waiting for {wanted}; {self._remedy()}, unless a producer is running")
                logged = True
            time.sleep(self.wait_sleep_seconds if limit is None else min(self.wait_sleep_seconds, limit - waited))
        return found

    def _read(self, file: QueueFile) -> list[StoredBatch]:
        """Return the batches of a file; DataError if they do not fit the run."""
        batches = read_batches(file.path, self.batch_size)
        longest = max(batch.tensors["input"].shape[-1] for batch in batches)
        if self.block_size is not None and longest > self.block_size:
            raise DataError(
                f"{file.path} holds rows of {longest} tokens, wanted at most block_size={self.block_size}: "
                "train with the block_size of the queue, or fill it again"
            )
        if self.meta["training_type"] == LANGUAGE_MODEL:
            for batch in batches:
                _require_equal(file.path, batch.tensors["input"].shape[-1], batch.tensors["target"].shape[-1])
        if self._model_vocab_size is not None:
            check_ids(file.path, batches, self._model_vocab_size)
        return batches

    def _prepared(self, batch: StoredBatch) -> Batch:
        """Return a batch in the form that objectives expect."""
        tensors = dict(batch.tensors)
        if self.meta["training_type"] == LANGUAGE_MODEL:
            return tensors["input"], tensors["target"].clamp(min=-1)  # the only number that the loss ignores
        if "stage_index" in batch.metadata:
            tensors["stage"] = torch.tensor(batch.metadata["stage_index"])
        return {**tensors, "model_mode": str(batch.metadata.get("model_mode", "language_model"))}

    def _remedy(self) -> str:
        return f"fill it with `{command(str(self.folder / STREAM))} CONFIG`"


def _require_equal(where: Path, block_size: int, target_size: int) -> None:
    """Raise DataError when targets and inputs differ in length; next-token prediction needs equal lengths."""
    if block_size != target_size:
        raise DataError(
            f"{where} holds targets of {target_size} tokens for inputs of {block_size}, wanted as many: remove the "
            "queue, and fill it again without target_size"
        )
