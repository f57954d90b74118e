"""Files of a queue are deleted when no checkpoint in the run's folder needs them; errors do not stop the run."""

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


def consumer(data: Path, rank: int = 0, world_size: int = 1) -> DatasetConsumer:
    return DatasetConsumer(data, 2, rank=rank, world_size=world_size, wait_timeout_seconds=0)


def checkpoint(out: Path, number: int, *last_files: int, in_manifest: bool = False) -> Path:
    """Write a checkpoint with a queue position for each rank. in_manifest: the positions are only in its manifest"""
    world_size = len(last_files)
    states = [
        {"file": last, "offset": 1, "last_file": last, "rank": rank, "world_size": world_size}
        for rank, last in enumerate(last_files)
    ]
    path = out / f"ckpt-{number:06d}.pt"
    torch.save({"model": {}, "ranks": [] if in_manifest else [{"data": state} for state in states]}, path)
    if in_manifest:
        notes = {"iter_num": 1, "val_loss": None, "healthy": True, "data_position": states}
        manifest.write(path.with_suffix(".json"), manifest.describe(path, number, notes))
    return path


def report_checkpoint(release: QueueRelease, path: Path) -> None:
    release.on_checkpoint(None, path)  # type: ignore[arg-type]


def numbers(data: Path) -> list[int]:
    return [file.number for file in Queue(data / "queue" / "train").files()]


def test_files_are_kept_until_the_best_checkpoint_is_deleted(data: Path, out: Path) -> None:
    release = QueueRelease(consumer(data), out)
    best = checkpoint(out, 1, 2)
    report_checkpoint(release, best)
    report_checkpoint(release, checkpoint(out, 2, 4))
    report_checkpoint(release, checkpoint(out, 3, 6))
    assert numbers(data) == [2, 3, 4, 5, 6, 7]

    best.unlink()
    report_checkpoint(release, checkpoint(out, 4, 7))
    assert numbers(data) == [4, 5, 6, 7]


def test_checkpoints_of_earlier_processes_keep_their_files(data: Path, out: Path) -> None:
    checkpoint(out, 1, 3)
    report_checkpoint(QueueRelease(consumer(data), out), checkpoint(out, 2, 6))

    assert numbers(data) == [3, 4, 5, 6, 7]


def test_the_lowest_position_of_all_checkpoints_counts(data: Path, out: Path) -> None:
    """After a rollback, a newer checkpoint has an earlier position in the queue."""
    checkpoint(out, 1, 6)
    report_checkpoint(QueueRelease(consumer(data), out), checkpoint(out, 2, 4))

    assert numbers(data) == [4, 5, 6, 7]


def test_each_rank_releases_its_own_files(data: Path, out: Path) -> None:
    for rank in (0, 1):
        report_checkpoint(QueueRelease(consumer(data, rank, 2), out), checkpoint(out, 1, 4, 3))

    assert numbers(data) == [3, 4, 5, 6, 7]


def test_other_files_in_the_run_folder_are_ignored(data: Path, out: Path) -> None:
    for name in ("ckpt.pt", "ckpt_old_7.pt", "ckpt-000001.json", "ckpt-000001.pt.part"):
        (out / name).write_bytes(b"something")
    report_checkpoint(QueueRelease(consumer(data), out), checkpoint(out, 2, 2))

    assert numbers(data) == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("content", [b"damaged", b""])
def test_a_damaged_checkpoint_is_reported_once_and_skipped(
    data: Path, out: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    release = QueueRelease(consumer(data), out)
    (out / "ckpt-000001.pt").write_bytes(content)
    report_checkpoint(release, checkpoint(out, 2, 2))
    report_checkpoint(release, checkpoint(out, 3, 3))

    assert numbers(data) == [2, 3, 4, 5, 6, 7]
    assert [message.count("ckpt-000001.pt is damaged") for message in caplog.messages] == [1]


def test_a_deleted_checkpoint_or_folder_releases_nothing(
    data: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release = QueueRelease(consumer(data), out)
    path = checkpoint(out, 1, 4)
    path.unlink()
    report_checkpoint(release, path)
    out.rmdir()
    report_checkpoint(release, path)

    assert numbers(data) == list(range(8))


def test_a_file_that_cannot_be_deleted_is_reported_once(
    data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    release = QueueRelease(consumer(data), out)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        for number in (1, 2):
            report_checkpoint(release, checkpoint(out, number, 2))
    assert [message.count("Permission denied") for message in caplog.messages] == [1]

    report_checkpoint(release, checkpoint(out, 3, 2))
    assert numbers(data) == [2, 3, 4, 5, 6, 7]


def test_a_checkpoint_is_read_once(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = torch.load

    def recording_load(path: Path, **options: Any) -> Any:
        loaded.append(path.name)
        return load(path, **options)

    release = QueueRelease(consumer(data), out)
    monkeypatch.setattr(torch, "load", recording_load)
    for number in (1, 2, 3):
        report_checkpoint(release, checkpoint(out, number, 1))

    assert loaded == ["ckpt-000001.pt", "ckpt-000002.pt", "ckpt-000003.pt"]


def test_positions_are_read_from_the_manifest(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("the checkpoint file is loaded")

    release = QueueRelease(consumer(data), out)
    paths = [checkpoint(out, 1, 4, in_manifest=True), checkpoint(out, 2, 3, in_manifest=True)]
    monkeypatch.setattr(torch, "load", load)
    for path in paths:
        report_checkpoint(release, path)

    assert numbers(data) == [3, 4, 5, 6, 7]


def test_a_manifest_of_an_older_version_has_no_positions(data: Path, out: Path) -> None:
    path = checkpoint(out, 1, 4)
    notes = {"iter_num": 1, "val_loss": None, "healthy": True}
    manifest.write(path.with_suffix(".json"), manifest.describe(path, 1, notes))
    report_checkpoint(QueueRelease(consumer(data), out), path)

    assert numbers(data) == [4, 5, 6, 7]
