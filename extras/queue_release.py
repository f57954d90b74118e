"""Files of a queue are deleted when no checkpoint that the run may go back to needs them any more."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from core.callback import Callback

if TYPE_CHECKING:
    from core.trainer import Trainer
    from data.streaming.consumer import DatasetConsumer


class QueueRelease(Callback):
    """Releases, after each checkpoint, the files that were used up before the oldest of the last `keep_last` ones."""

    def __init__(self, consumer: DatasetConsumer, keep_last: int) -> None:
        self.consumer = consumer
        self.paths: deque[Path] = deque(maxlen=keep_last)

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """Read from the oldest checkpoint where this process was in the queue; nothing else of it is loaded."""
        self.paths.append(path)
        if len(self.paths) == self.paths.maxlen and self.paths[0].exists():
            checkpoint = torch.load(self.paths[0], map_location="cpu", mmap=True, weights_only=True)
            self.consumer.release(checkpoint["ranks"][trainer.runtime.rank]["data"])
