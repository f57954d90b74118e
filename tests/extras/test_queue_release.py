"""Files of a queue go when no checkpoint in the run's folder needs them, and no sooner; trouble ends no run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoint import manifest
from data.streaming.consumer import DatasetConsumer
from data.streaming.queue import Queue
from extras.queue_release import QueueRelease
from tests.data.streaming.conftest import producer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data set with a queue of eight files, three batches each."""
    producer(tmp_path / "data", max_backlog_files=8).run(once=True)
    return tmp_path / "data"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def reader(data: Path, rank: int = 0, world_size: int = 1) -> DatasetConsumer:
    return DatasetConsumer(data, 2, rank=rank, world_size=world_size, wait_timeout_seconds=0)


def checkpoint(out: Path, number: int, *last_files: int, noted: bool = False) -> Path:
    """Write a checkpoint of as many ranks as there are places in the queue. noted: in the manifest alone"""
    world_size = len(last_files)
    states = [
        {"file": last, "offset": 1, "last_file": last, "rank": rank, "world_size": world_size}
        for rank, last in enumerate(last_files)
    ]
    path = out / f"ckpt-{number:06d}.pt"
    torch.save({"model": {}, "ranks": [] if noted else [{"data": state} for state in states]}, path)
    if noted:
        notes = {"iter_num": 1, "val_loss": None, "healthy": True, "data_position": states}
        manifest.write(path.with_suffix(".json"), manifest.describe(path, number, notes))
    return path


def saved(release: QueueRelease, path: Path) -> None:
    release.on_checkpoint(None, path)  # type: ignore[arg-type]


def numbers(data: Path) -> list[int]:
    return [file.number for file in Queue(data / "queue" / "train").files()]


def test_the_best_checkpoint_keeps_its_files_until_it_goes(data: Path, out: Path) -> None:
    release = QueueRelease(reader(data), out)
    best = checkpoint(out, 1, 2)
    saved(release, best)
    saved(release, checkpoint(out, 2, 4))
    saved(release, checkpoint(out, 3, 6))
    assert numbers(data) == [2, 3, 4, 5, 6, 7]

    best.unlink()
    saved(release, checkpoint(out, 4, 7))
    assert numbers(data) == [4, 5, 6, 7]


def test_a_short_job_finds_the_checkpoints_of_those_before_it(data: Path, out: Path) -> None:
    checkpoint(out, 1, 3)
    saved(QueueRelease(reader(data), out), checkpoint(out, 2, 6))

    assert numbers(data) == [3, 4, 5, 6, 7]


def test_the_newest_need_not_be_the_furthest(data: Path, out: Path) -> None:
    """After a recovery the numbers go on, and the place in the queue goes back."""
    checkpoint(out, 1, 6)
    saved(QueueRelease(reader(data), out), checkpoint(out, 2, 4))

    assert numbers(data) == [4, 5, 6, 7]


def test_each_rank_releases_its_own(data: Path, out: Path) -> None:
    for rank in (0, 1):
        saved(QueueRelease(reader(data, rank, 2), out), checkpoint(out, 1, 4, 3))

    assert numbers(data) == [3, 4, 5, 6, 7]


def test_other_files_in_the_folder_do_not_count(data: Path, out: Path) -> None:
    for name in ("ckpt.pt", "ckpt_old_7.pt", "ckpt-000001.json", "ckpt-000001.pt.part"):
        (out / name).write_bytes(b"something")
    saved(QueueRelease(reader(data), out), checkpoint(out, 2, 2))

    assert numbers(data) == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("content", [b"damaged", b""])
def test_a_damaged_checkpoint_is_reported_once_and_skipped(
    data: Path, out: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    release = QueueRelease(reader(data), out)
    (out / "ckpt-000001.pt").write_bytes(content)
    saved(release, checkpoint(out, 2, 2))
    saved(release, checkpoint(out, 3, 3))

    assert numbers(data) == [2, 3, 4, 5, 6, 7]
    assert [message.count("ckpt-000001.pt is damaged") for message in caplog.messages] == [1]


def test_what_has_vanished_releases_nothing(data: Path, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    release = QueueRelease(reader(data), out)
    path = checkpoint(out, 1, 4)
    path.unlink()
    saved(release, path)
    out.rmdir()
    saved(release, path)

    assert numbers(data) == list(range(8))


def test_a_file_that_cannot_be_deleted_is_reported_once(
    data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    release = QueueRelease(reader(data), out)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        for number in (1, 2):
            saved(release, checkpoint(out, number, 2))
    assert [message.count("Permission denied") for message in caplog.messages] == [1]

    saved(release, checkpoint(out, 3, 2))
    assert numbers(data) == [2, 3, 4, 5, 6, 7]


def test_a_checkpoint_is_read_once(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = torch.load

    def counted(path: Path, **options: Any) -> Any:
        read.append(path.name)
        return load(path, **options)

    release = QueueRelease(reader(data), out)
    monkeypatch.setattr(torch, "load", counted)
    for number in (1, 2, 3):
        saved(release, checkpoint(out, number, 1))

    assert read == ["ckpt-000001.pt", "ckpt-000002.pt", "ckpt-000003.pt"]


def test_positions_are_read_from_the_manifest(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("the checkpoint itself is read")

    release = QueueRelease(reader(data), out)
    paths = [checkpoint(out, 1, 4, noted=True), checkpoint(out, 2, 3, noted=True)]
    monkeypatch.setattr(torch, "load", load)
    for path in paths:
        saved(release, path)

    assert numbers(data) == [3, 4, 5, 6, 7]


def test_a_manifest_of_an_older_version_has_no_positions(data: Path, out: Path) -> None:
    path = checkpoint(out, 1, 4)
    notes = {"iter_num": 1, "val_loss": None, "healthy": True}
    manifest.write(path.with_suffix(".json"), manifest.describe(path, 1, notes))
    saved(QueueRelease(reader(data), out), path)

    assert numbers(data) == [4, 5, 6, 7]
