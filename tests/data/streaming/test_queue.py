"""data/streaming/queue.py: numbers never come twice, and a taken file makes room."""

import os
from pathlib import Path

import pytest
import torch

from core.errors import DataError
from data.streaming.batch_file import StoredBatch
from data.streaming.queue import MARK, Queue

BATCH = StoredBatch({"input": torch.zeros(1, 1), "target": torch.zeros(1, 1)}, {})


def add(queue: Queue, number: int, ms: int = 0) -> Path:
    queue.folder.mkdir(parents=True, exist_ok=True)
    return queue.add(number, [BATCH], {"produced_at": ms})


def test_files_come_in_the_order_of_their_numbers_whatever_the_clock_says(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "train")
    for number, ms in ((0, 30), (1, 20), (2, 10)):
        add(queue, number, ms)

    assert [file.path.name for file in queue.files()] == ["30-000000-1.pt", "20-000001-1.pt", "10-000002-1.pt"]


def test_a_taken_file_waits_no_longer_but_is_still_there(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "train")
    for number in range(2):
        add(queue, number)

    taken = queue.take(queue.files()[0])

    assert [file.number for file in queue.waiting()] == [1]
    assert [file.number for file in queue.files()] == [0, 1]
    assert queue.take(taken) == taken and taken.path.exists()
    queue.release(taken)
    queue.release(taken)
    assert [file.number for file in queue.files()] == [1]


def test_numbers_go_on_when_everything_is_consumed(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "train")
    assert queue.next_number() == 0
    for number in range(3):
        add(queue, number)
    for file in queue.files():
        queue.release(file)

    assert Queue(tmp_path / "train").next_number() == 3


def test_numbers_go_on_after_a_kill_between_file_and_mark(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "train")
    add(queue, 0)
    add(queue, 1)
    (queue.folder / MARK).write_text("1")

    assert queue.next_number() == 2


def test_an_unreadable_mark_is_one_clear_error(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "train")
    add(queue, 0)
    (queue.folder / MARK).write_text("what")

    with pytest.raises(DataError, match="next"):
        queue.next_number()


def test_half_written_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "train")
    add(queue, 0)
    for name in ("1-000001-1.pt.part", ".tmp-1-000001.pt", "notes.txt"):
        (queue.folder / name).write_text("")

    assert [file.number for file in queue.files()] == [0]
    queue.remove_partial_files()
    assert not (queue.folder / "1-000001-1.pt.part").exists()
    assert (queue.folder / "notes.txt").exists()


def test_a_folder_that_is_not_there_is_an_empty_queue(tmp_path: Path) -> None:
    assert Queue(tmp_path / "none").files() == Queue(tmp_path / "none").waiting() == []


def test_a_pipe_in_place_of_a_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    os.mkfifo(tmp_path / "train" / MARK)
    with pytest.raises(DataError, match=r"it is a named pipe\): remove "):
        Queue(tmp_path / "train").next_number()
