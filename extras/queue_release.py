"""Files of a queue are deleted when no checkpoint that the run may go back to needs them any more."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from core.callback import Callback
from core.checkpoint.manifest import sequence_of

if TYPE_CHECKING:
    from core.trainer import Trainer
    from data.streaming.consumer import DatasetConsumer

log = logging.getLogger("coregpt")


class QueueRelease(Callback):
    """Releases, after each checkpoint, the files that none of all numbered checkpoints in the run's folder needs.

    These may be of earlier jobs, or kept as the best: whichever a resume or a recovery picks, its files are there. What
    cannot be read or deleted is told once; it never ends the run.
    """

    def __init__(self, consumer: DatasetConsumer) -> None:
        self.consumer = consumer
        self.needed: dict[str, int] = {}  # by checkpoint, the first file it needs; checkpoints never change
        self.damaged: set[str] = set()
        self.told: set[str] = set()

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """Read from each checkpoint that is new here where this process was in the queue; nothing else of it."""
        try:
            found = [entry for entry in trainer.archive.checkpoints.folder.iterdir() if _is_checkpoint(entry)]
            needed = [self._needed(entry) for entry in found if entry.name not in self.damaged]
            self.needed = {entry.name: self.needed[entry.name] for entry in found if entry.name in self.needed}
            if numbers := [number for number in needed if number is not None]:
                self.consumer.release(min(numbers))
        except OSError as error:  # it may be another time; until then the files stay
            self._tell(f"files of the queue cannot be deleted at the moment ({error.strerror or error})")

    def _needed(self, path: Path) -> int | None:
        """Return the first file that a checkpoint needs; None for one that nobody can go back to."""
        if path.name not in self.needed:
            try:
                checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
                states = [rank["data"] for rank in checkpoint["ranks"]]
                self.needed[path.name] = self.consumer.first_needed(states)
            except FileNotFoundError:  # removed since
                return None
            except OSError:
                raise
            except Exception as error:  # a damaged file can fail in nearly any way
                self.damaged.add(path.name)
                reason = " ".join(str(error).split())[:200]
                self._tell(
                    f"{path} is damaged, so no file of the queue is kept for it ({type(error).__name__}: {reason})"
                )
                return None
        return self.needed[path.name]

    def _tell(self, text: str) -> None:
        """Say it once."""
        if text not in self.told:
            log.warning(text)
        self.told.add(text)


def _is_checkpoint(path: Path) -> bool:
    return path.suffix == ".pt" and sequence_of(path.name) is not None
