"""data/streaming/producer.py: reproducible, never too much, one at a time, and whole whenever it is killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import ConfigError, DataError
from data.meta import read_meta, write_meta
from data.streaming.batch_file import StoredBatch
from data.streaming.queue import Queue
from tests.data.streaming.conftest import Noise, content, producer

ROOT = Path(__file__).resolve().parents[3]


def test_the_same_seed_gives_the_same_batches_and_another_gives_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        producer(tmp_path / name, seed=seed).run(once=True)

    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert content(tmp_path / "a", "val") == content(tmp_path / "b", "val")
    different = content(tmp_path / "a") + content(tmp_path / "a", "val") + content(tmp_path / "c")
    assert len({str(batch) for batch in different}) == len(different) == 18


def test_a_file_is_the_same_whether_made_in_one_go_or_after_a_restart(tmp_path: Path) -> None:
    producer(tmp_path / "a", max_backlog_files=4).run(once=True)
    for _ in range(4):
        producer(tmp_path / "b", max_backlog_files=4).run(files=1)

    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_the_global_generator_has_no_part_in_it(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    producer(tmp_path).run(once=True)

    assert torch.equal(before, torch.get_rng_state())


def test_no_more_files_wait_than_allowed(tmp_path: Path) -> None:
    made = producer(tmp_path, max_backlog_files=3)
    queue = Queue(tmp_path / "queue" / "train")
    assert made.run(once=True) == 6
    assert made.run(once=True) == 0

    queue.take(queue.files()[0])

    assert made.run(once=True) == 1
    assert [file.number for file in queue.waiting()] == [1, 2, 3]


def test_files_counts_those_of_training(tmp_path: Path) -> None:
    assert producer(tmp_path, max_backlog_files=5).run(files=1) == 2
    assert producer(tmp_path, max_backlog_files=5).run(files=3) == 6


def test_meta_says_what_the_batches_are(tmp_path: Path) -> None:
    producer(tmp_path).run(once=True)

    assert read_meta(tmp_path / "meta.pkl") == {**Noise().meta, "seed": 1337}


def test_files_of_another_shape_do_not_join_those_that_wait(tmp_path: Path) -> None:
    producer(tmp_path).run(once=True)

    with pytest.raises(ConfigError, match=r"block_size=4, now 8: let training consume them first, or remove"):
        producer(tmp_path, Noise(block_size=8)).run(once=True)
    for split in ("train", "val"):
        queue = Queue(tmp_path / "queue" / split)
        for file in queue.files():
            queue.release(file)
    producer(tmp_path, Noise(block_size=8)).run(once=True)
    assert read_meta(tmp_path / "meta.pkl")["block_size"] == 8


def test_files_of_another_length_do_not_join_those_that_wait(tmp_path: Path) -> None:
    """Of two ranks, the one with shorter files would wait for room that the other's take."""
    producer(tmp_path).run(once=True)

    with pytest.raises(ConfigError, match=r"batches_per_file=3, now 5: let training consume them first"):
        producer(tmp_path, batches_per_file=5).run(once=True)


def test_another_seed_begins_with_an_empty_queue(tmp_path: Path) -> None:
    producer(tmp_path, seed=5).run(once=True)
    producer(tmp_path, seed=5).run(once=True)

    with pytest.raises(ConfigError, match=r"were made with seed=5, now 6: let training consume them first, or remove"):
        producer(tmp_path, seed=6).run(once=True)
    shutil.rmtree(tmp_path / "queue")
    assert producer(tmp_path, seed=6).run(once=True)


@pytest.mark.parametrize("old", [{"vocab_size": 7}, {"vocab_size": 9, "stoi": {"a": 0}}, None])
def test_the_vocabulary_of_a_text_is_not_written_over(tmp_path: Path, old: dict[str, Any] | None) -> None:
    (tmp_path / "train.bin").touch()
    if old:
        write_meta(tmp_path / "meta.pkl", old)
    there = sorted(tmp_path.iterdir())

    with pytest.raises(DataError, match=r"has another vocabulary .* --dataset=NAME --source_data_dir="):
        producer(tmp_path).run(once=True)
    assert sorted(tmp_path.iterdir()) == there
    assert old is None or read_meta(tmp_path / "meta.pkl") == old


def test_a_queue_of_the_same_vocabulary_may_lie_beside_the_text(tmp_path: Path) -> None:
    (tmp_path / "train.bin").touch()
    write_meta(tmp_path / "meta.pkl", {"vocab_size": 9})

    assert producer(tmp_path).run(once=True) == 4


def test_a_plain_vocabulary_in_meta_is_no_obstacle(tmp_path: Path) -> None:
    write_meta(tmp_path / "meta.pkl", {"vocab_size": 9})
    producer(tmp_path).run(once=True)

    assert read_meta(tmp_path / "meta.pkl")["training_type"] == "MLM"


def test_two_producers_of_one_queue_are_refused(tmp_path: Path) -> None:
    class Nested(Noise):
        def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
            producer(tmp_path).run(once=True)
            raise AssertionError("it should have been refused")

    with pytest.raises(ConfigError, match="another process is filling"):
        producer(tmp_path, Nested()).run(once=True)
    producer(tmp_path).run(once=True)  # the lock went with the run


def test_a_full_disk_leaves_no_part_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    queue = Queue(tmp_path / "queue" / "train")
    queue.folder.mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot write .*-000000-3\.pt .*No space left"):
        producer(tmp_path).produce("train")

    assert list(queue.folder.iterdir()) == []


def test_ctrl_c_ends_it_quietly(tmp_path: Path) -> None:
    class Interrupted(Noise):
        def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
            raise KeyboardInterrupt

    said: list[str] = []
    assert producer(tmp_path, Interrupted(), say=said.append).run() == 0
    assert "Ctrl-C" in said[0]


def test_a_kill_in_the_middle_of_writing_leaves_an_ignored_part(tmp_path: Path) -> None:
    script = (
        "import sys, time, torch; from pathlib import Path\n"
        "from tests.data.streaming.conftest import producer\n"
        "import data.streaming.batch_file as batch_file\n"
        "save = torch.save\n"
        "def slow(content, file):\n"
        "    file.write(b'half a file'); file.flush(); print('writing', flush=True); time.sleep(60)\n"
        "torch.save = slow\n"
        "producer(Path(sys.argv[1])).run()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout and child.stdout.readline() == b"writing\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()

    queue = Queue(tmp_path / "queue" / "train")
    assert [path.suffix for path in queue.folder.iterdir()] == [".part"]
    assert queue.files() == []
    producer(tmp_path).run(once=True)
    producer(tmp_path / "whole").run(once=True)
    assert content(tmp_path) == content(tmp_path / "whole")
    assert list(queue.folder.glob("*.part")) == []


def test_it_makes_the_next_file_when_one_is_taken(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue" / "train")

    class Taking(Noise):
        def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
            assert split == "val" or len(queue.waiting()) < 2
            return super().batches(split, count, generator)

    made = producer(tmp_path, Taking())
    sleeps = []

    def taking(seconds: float) -> None:
        sleeps.append(seconds)
        queue.take(queue.waiting()[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", taking)
        made.run(files=5)
    assert sleeps == [0.01] * 3
    assert len(queue.files()) == 5
