"""Files of a queue go when the oldest checkpoint that is kept no longer needs them, and no sooner."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from extras.queue_release import QueueRelease


class Consumer:
    """Remembers what it was told to release."""

    def __init__(self) -> None:
        self.released: list[Any] = []

    def release(self, state: dict[str, int]) -> int:
        self.released.append(state)
        return 0


def checkpoint(folder: Path, number: int) -> Path:
    """Write a checkpoint of two ranks that are at different places."""
    path = folder / f"ckpt-{number:06d}.pt"
    torch.save({"model": {}, "ranks": [{"data": {"next": number}}, {"data": {"next": number + 100}}]}, path)
    return path


def test_the_oldest_checkpoint_that_is_kept_decides(tmp_path: Path) -> None:
    consumer = Consumer()
    release = QueueRelease(consumer, keep_last=2)  # type: ignore[arg-type]
    trainer: Any = SimpleNamespace(runtime=SimpleNamespace(rank=1))

    release.on_checkpoint(trainer, checkpoint(tmp_path, 1))
    assert consumer.released == []
    release.on_checkpoint(trainer, checkpoint(tmp_path, 2))
    release.on_checkpoint(trainer, checkpoint(tmp_path, 3))

    assert consumer.released == [{"next": 101}, {"next": 102}]


def test_a_checkpoint_that_somebody_removed_releases_nothing(tmp_path: Path) -> None:
    consumer = Consumer()
    release = QueueRelease(consumer, keep_last=1)  # type: ignore[arg-type]

    path = checkpoint(tmp_path, 1)
    path.unlink()
    release.on_checkpoint(SimpleNamespace(runtime=SimpleNamespace(rank=0)), path)  # type: ignore[arg-type]

    assert consumer.released == []
