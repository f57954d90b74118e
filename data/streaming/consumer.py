"""Batches from the queue of a data set: a data source for training."""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch

from core.errors import DataError
from data.meta import read_meta
from data.streaming.batch_file import StoredBatch, read_batches
from data.streaming.queue import Queue, QueueFile

log = logging.getLogger("coregpt")
T = TypeVar("T")
Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor] | dict[str, torch.Tensor | str]
LANGUAGE_MODEL = "LM"  # what meta.pkl says where the targets are the inputs moved on by one


class DatasetConsumer:
    """A data source: `get_batch(split)` returns the next batch of the queue, on the device, and waits for it.

    A batch is `(inputs, targets)` for next-token prediction, and else a dict: `input` (B, T) int64, `target` (B, T)
    int64 or (B,) float32, `stage` (B,) int64, each row's stage, where there are stages, further tensors if the file has
    any, and `model_mode`, what the provider made it for.

    Training file n belongs to rank n modulo world_size, so that no two share one and none is missed. A file is moved to
    the queue's folder `taken` when it is opened, and deleted by `release`, no sooner. Validation files stay.

    `state_dict` names the file that comes next and the batch in it. Without a state, or with one of another number of
    ranks, the files start from the oldest that is not released: then batches may come again, but none is lost.

    wait_sleep_seconds:   time between looks at an empty queue
    wait_timeout_seconds: DataError after waiting that long; None waits for ever

    Raises DataError at once when the queue's folder or meta.pkl is missing, or a file of this rank is damaged.
    """

    def __init__(
        self,
        data_dir: str | Path,
        batch_size: int,
        block_size: int | None = None,
        *,
        device: torch.device | None = None,
        rank: int = 0,
        world_size: int = 1,
        wait_sleep_seconds: float = 1.0,
        wait_timeout_seconds: float | None = None,
    ) -> None:
        self.folder = Path(data_dir)
        self.batch_size = batch_size
        self.block_size = block_size
        self.device = device or torch.device("cpu")
        self.rank = rank
        self.world_size = world_size
        self.wait_sleep_seconds = wait_sleep_seconds
        self.wait_timeout_seconds = wait_timeout_seconds
        self.queues = {split: Queue(self.folder / "queue" / split) for split in ("train", "val")}

        self._next: int | None = None  # the file that the next training batch is in; None: the oldest
        self._offset = 0  # and its place in there
        self._last: int | None = None  # the file that the last training batch was in
        self._open: tuple[int, list[StoredBatch]] | None = None
        self._seen: dict[str, tuple[int, int]] = {}  # of an evaluation: file and place of the batch that comes next
        self._shown: dict[str, tuple[int, list[StoredBatch]]] = {}
        self._told = False  # that validation files are few
        self._check()

    # what is there

    @property
    def meta_path(self) -> Path:
        """Where the producer leaves the vocabulary, and what the batches are for."""
        return self.folder / "meta.pkl"

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What the producer says about the data set."""
        return read_meta(self.meta_path)

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, [CLS] included."""
        return max(int(self.meta["vocab_size"]), (self.meta.get("cls_token_id") or 0) + 1)

    def check_vocab(self, vocab_size: int) -> None:
        """Raise DataError when the model does not know all ids that batches of the queue may have."""
        needed = self.meta.get("largest_token_id", self.vocab_size - 1) + 1
        if vocab_size < needed:
            raise DataError(
                f"{self.meta_path} tells of {needed} token ids, but the model knows only {vocab_size}: "
                "the queue was filled for another model"
            )

    def fingerprint(self) -> str:
        """Return a short hash of meta.pkl: the files themselves come and go."""
        return hashlib.sha256(self.meta_path.read_bytes()).hexdigest()[:16]

    def wait(self) -> None:
        """Return when there is a file to train on and one to evaluate on. DataError if that takes too long."""
        self._wait(lambda: self._first_own(0), "train")
        self._wait(self.queues["val"].files, "val")

    # batches

    def get_batch(self, split: str) -> Batch:
        """Return the next training batch, which is consumed by that; or, of `val`, what `get_eval_batch` does."""
        if split != "train":
            return self.get_eval_batch(split)
        number, batches = self._training_file()
        batch = self._given_out(batches[self._offset])
        # only here does anything change: a wait that a signal interrupts leaves no trace
        done = self._offset + 1 == len(batches)
        self._last, self._next = number, number + self.world_size if done else number
        self._offset = 0 if done else self._offset + 1
        self._seen.clear()
        return batch

    def get_eval_batch(self, split: str) -> Batch:
        """Return a batch to evaluate on, and consume nothing.

        Of `val`: all files there are, in turn, again and again. Of `train`: the file that the last training batch came
        from, again and again; the newest would depend on how quick the producer is. Each evaluation starts from the
        beginning: the first call after a training batch.
        """
        number, offset = self._seen.get(split, (0, 0))
        found, batches = self._evaluation_file(split, number)
        offset = offset if found == number else 0
        batch = self._given_out(batches[offset])
        self._seen[split] = (found + 1, 0) if offset + 1 == len(batches) else (found, offset + 1)
        return batch

    # where it is

    def state_dict(self) -> dict[str, Any]:
        """Return where training is: plain values."""
        place = {"file": self._next, "offset": self._offset, "last_file": self._last}
        return {**place, "rank": self.rank, "world_size": self.world_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken; from the oldest file, if by another number of ranks."""
        self._seen.clear()
        if (state["rank"], state["world_size"]) != (self.rank, self.world_size):
            log.warning(
                f"the queue was read by {state['world_size']} processes and now is by {self.world_size}: "
                "starting from its oldest file; batches may come again, none is lost"
            )
            state = {"file": None, "offset": 0, "last_file": None}
        self._next, self._offset, self._last = state["file"], state["offset"], state["last_file"]

    def first_needed(self, states: Sequence[dict[str, Any]]) -> int:
        """Return the number of the first file that this rank needs to go on from a checkpoint, given all its states.

        It is that of the last batch, as a checkpoint holds that batch drawn but not trained on. One by another number
        of ranks needs all files that any of these had not used up.
        """
        own = [state for state in states if (state["rank"], state["world_size"]) == (self.rank, self.world_size)]
        return min(state["last_file"] or 0 for state in own or states)

    def release(self, number: int) -> int:
        """Delete this rank's training files before file `number`. Return how many.

        Call it on every rank with the smallest `first_needed` of all checkpoints that the run may still go back to.
        """
        covered = [file for file in self._own_files() if file.number < number]
        for file in covered:
            self.queues["train"].release(file)
        return len(covered)

    # files

    def _check(self) -> None:
        """Look at all that is there before training depends on it."""
        if not (self.folder / "queue").is_dir():
            raise DataError(f"no queue at {self.folder / 'queue'}: {self._remedy()}")
        if "training_type" not in self.meta:
            raise DataError(f"{self.meta_path} does not say what the queue is for (training_type): {self._remedy()}")
        if self.meta["training_type"] == LANGUAGE_MODEL and {"block_size", "target_size"} <= self.meta.keys():
            _require_equal(self.folder / "queue", self.meta["block_size"], self.meta["target_size"])
        files = [*self._own_files(), *(self.queues["val"].files() if self.rank == 0 else [])]
        for file in files:
            self._read(file)

    def _own_files(self) -> list[QueueFile]:
        """Return the training files of this rank."""
        return [file for file in self.queues["train"].files() if file.number % self.world_size == self.rank]

    def _training_file(self) -> tuple[int, list[StoredBatch]]:
        """Return the file that the next training batch is in, open."""
        if self._open is None or self._open[0] != self._next:
            file = self._wait(self._find_next, "train")
            if self._next is not None and file.number != self._next:
                if self._offset:
                    raise DataError(
                        f"training stopped in the middle of file {self._next:06d}, which is no longer in "
                        f"{self.queues['train'].folder}: put it back, or start from the oldest file there is with "
                        "--resume_rng=reseed"
                    )
                log.warning(f"file {self._next:06d} of {self.queues['train'].folder} is missing; going on after it")
            batches = self._read(file)
            self.queues["train"].take(file)
            self._open, self._next = (file.number, batches), file.number
        if self._offset >= len(self._open[1]):
            raise DataError(
                f"training stopped at batch {self._offset} of file {self._open[0]:06d} in "
                f"{self.queues['train'].folder}, which now holds {len(self._open[1])}: it was made anew with "
                "other settings; start from the oldest file with --resume_rng=reseed"
            )
        return self._open

    def _find_next(self) -> QueueFile | None:
        """Return the first file that is not behind us, if there is one."""
        found = self._first_own(self._next or 0)
        if found and found.number != self._next:  # a list may lack what was renamed while it was read: look again
            found = self._first_own(self._next or 0)
        if not found:
            self._pass_by()
        return found

    def _pass_by(self) -> None:
        """Make room for the producer where files wait that are behind us, as in a queue that was emptied by hand."""
        for file in self.queues["train"].waiting():
            if file.number % self.world_size == self.rank and file.number < (self._next or 0):
                self.queues["train"].take(file)

    def _first_own(self, number: int) -> QueueFile | None:
        return next((file for file in self._own_files() if file.number >= number), None)

    def _evaluation_file(self, split: str, number: int) -> tuple[int, list[StoredBatch]]:
        """Return the file to evaluate on, open: of `val`, the first from `number` on, or else the first of all."""
        if split == "train":
            last = self._next if self._last is None else self._last
            file = self._wait(lambda: self._first_own(last or 0), split)
        else:
            files = self._wait(self.queues[split].files, split)
            file = next((file for file in files if file.number >= number), files[0])
            if file.number < number and not self._told:
                log.warning(
                    f"an evaluation asks for more batches than {self.queues[split].folder} holds now: they come again, "
                    "and a file more would change its loss; lower eval_iters, or fill it with a larger "
                    "max_backlog_files before training"
                )
                self._told = True
        for opened in (self._open if split == "train" else None, self._shown.get(split)):
            if opened and opened[0] == file.number:
                return opened
        self._shown[split] = file.number, self._read(file)
        return self._shown[split]

    def _wait(self, find: Callable[[], T | None], split: str) -> T:
        """Call `find` until it finds something. Raises DataError when that takes too long."""
        began, told = time.monotonic(), False
        while not (found := find()):
            waited = time.monotonic() - began
            limit = self.wait_timeout_seconds
            whose = f" for rank {self.rank} of {self.world_size}" if self.world_size > 1 else ""
            what = f"a file{whose} in {self.queues[split].folder}"
            if limit is not None and waited >= limit:
                raise DataError(f"waited {waited:.0f} s (data_wait_timeout_seconds) for {what}: {self._remedy()}")
            if not told:
                log.info(f"waiting for {what}; {self._remedy()}, if nothing does")
                told = True
            time.sleep(self.wait_sleep_seconds if limit is None else min(self.wait_sleep_seconds, limit - waited))
        return found

    def _read(self, file: QueueFile) -> list[StoredBatch]:
        batches = read_batches(file.path, self.batch_size)
        longest = max(batch.tensors["input"].shape[-1] for batch in batches)
        if self.block_size is not None and longest > self.block_size:
            raise DataError(
                f"{file.path} holds rows of {longest} tokens, wanted block_size={self.block_size} at most: "
                "train with the block_size that the queue is filled with, or fill it anew"
            )
        if self.meta["training_type"] == LANGUAGE_MODEL:
            for batch in batches:
                _require_equal(file.path, batch.tensors["input"].shape[-1], batch.tensors["target"].shape[-1])
        return batches

    def _given_out(self, batch: StoredBatch) -> Batch:
        """Return a batch as objectives take it, on the device."""
        tensors = {name: self._on_device(tensor) for name, tensor in batch.tensors.items()}
        if self.meta["training_type"] == LANGUAGE_MODEL:
            return tensors["input"], tensors["target"]
        if "stage_index" in batch.metadata:
            tensors["stage"] = self._on_device(torch.tensor(batch.metadata["stage_index"]))
        return {**tensors, "model_mode": str(batch.metadata.get("model_mode", "language_model"))}

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        on_gpu = self.device.type == "cuda"
        return (tensor.pin_memory() if on_gpu else tensor).to(self.device, non_blocking=on_gpu)

    def _remedy(self) -> str:
        return f"fill it with `python {self.folder / 'prepare_streaming.py'} CONFIG`"


def _require_equal(where: Path, block_size: int, target_size: int) -> None:
    """Raise DataError where targets are not as long as their inputs, as next-token prediction needs them."""
    if block_size != target_size:
        raise DataError(
            f"{where} holds targets of {target_size} tokens for inputs of {block_size}, wanted as many: remove the "
            "queue, and fill it anew without target_size"
        )
