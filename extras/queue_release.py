"""Deletes files of a queue when no checkpoint that the run may go back to needs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.callback import Callback
from core.checkpoint.manifest import name_of, read, sequence_of
from core.errors import CheckpointError, WarnOnce

if TYPE_CHECKING:
    from core.trainer import Trainer
    from data.streaming.consumer import DatasetConsumer


class QueueRelease(Callback):
    """Releases, after each checkpoint, the files that no numbered checkpoint in the run's folder needs.

    These checkpoints may be of earlier jobs, or kept as the best: the files stay for any of them that a resume or a
    rollback may choose. Failures to read or delete are reported once and never end the run.
    """

    def __init__(self, consumer: DatasetConsumer, out_dir: str | Path) -> None:
        self.consumer = consumer
        self.folder = Path(out_dir)
        self.needed: dict[str, int] = {}  # by checkpoint, the first file it needs; checkpoints never change
        self.damaged: set[str] = set()
        self._warn = WarnOnce()

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """Find the first file that each checkpoint needs, and release the files before."""
        try:
            found = [entry for entry in self.folder.iterdir() if _is_checkpoint(entry)]
            needed = [self._first_needed(entry) for entry in found if entry.name not in self.damaged]
            self.needed = {entry.name: self.needed[entry.name] for entry in found if entry.name in self.needed}
            if numbers := [number for number in needed if number is not None]:
                self.consumer.release(min(numbers))
        except OSError as error:  # until it succeeds the files stay
            self._warn(f"files of the queue cannot be deleted at the moment ({error.strerror or error})")

    def _first_needed(self, path: Path) -> int | None:
        """Return the first file that a checkpoint needs; None for a checkpoint that cannot be restored."""
        if path.name not in self.needed:
            try:
                self.needed[path.name] = self.consumer.first_needed(_positions(path))
            except FileNotFoundError:  # removed since
                return None
            except OSError:
                raise
            except Exception as error:  # a damaged file can fail in nearly any way
                self.damaged.add(path.name)
                reason = " ".join(str(error).split())[:200]
                self._warn(
                    f"{path} is damaged, so no file of the queue is kept for it ({type(error).__name__}: {reason})"
                )
                return None
        return self.needed[path.name]


def _positions(path: Path) -> list[dict[str, Any]]:
    """Return the position of every rank in the queue, from a checkpoint's manifest."""
    sequence = sequence_of(path.name)
    assert sequence is not None
    try:
        positions = read(path.with_name(f"{name_of(sequence)}.json")).get("data_position")
    except CheckpointError:  # without an intact manifest
        positions = None
    if positions is None:  # a manifest of before version 0.2
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        positions = [rank["data"] for rank in checkpoint["ranks"]]
    return list(positions)


def _is_checkpoint(path: Path) -> bool:
    return path.suffix == ".pt" and sequence_of(path.name) is not None
