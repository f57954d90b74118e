"""An unfinished data set: what is kept of a killed process, what is not, and the move to its place."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import DataError
from data.meta import read_meta
from data.preparation import unfinished
from data.preparation.unfinished import UNFINISHED, UnfinishedDataSet
from data.tokenizers import ByteTokenizer, Gpt2Tokenizer, tokenizer_from_meta
from tests.data.preparation.small_encoding import use_for_gpt2

U2 = np.dtype(np.uint16)


class Killed(Exception):
    """Stands for SIGKILL."""


def chunks(*numbers: int, killed: bool = False) -> Iterator[tuple[int, Any]]:
    for number in numbers:
        yield 1, np.array([number] * 4, U2)
    if killed:
        raise Killed


OPENED: list[UnfinishedDataSet] = []


def opened(folder: Path, **arguments: Any) -> UnfinishedDataSet:
    OPENED.append(UnfinishedDataSet(folder, arguments))
    return OPENED[-1]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def test_ids_that_are_not_in_the_record_are_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "SAVE_BYTES", 16)  # after every second chunk
    first = opened(tmp_path, a=1)
    with pytest.raises(Killed):
        first.append("train", chunks(1, 2, 3, killed=True), U2)
    first.close()

    again = opened(tmp_path, a=1)
    assert again.is_continued and again.record["done"] == 2 and again.record["tokens"]["train"] == 8
    again.append("train", chunks(3), U2)
    assert np.fromfile(tmp_path / UNFINISHED / "train.bin", U2).tolist() == [1] * 4 + [2] * 4 + [3] * 4


@pytest.mark.parametrize("record", [None, b"", b"[]", b"{}", b'{"arguments": {}'])
def test_files_of_other_arguments_are_removed(tmp_path: Path, record: bytes | None) -> None:
    first = opened(tmp_path, a=1)
    first.append("train", chunks(1), U2)
    first.keep_tokenizer(ByteTokenizer())
    first.close()
    if record is not None:
        (tmp_path / UNFINISHED / "record.json").write_bytes(record)

    again = opened(tmp_path, a=2 if record is None else 1)
    assert not again.is_continued and again.record["tokens"] == {"train": 0, "val": 0}
    assert os.listdir(tmp_path / UNFINISHED) == ["lock"]


def test_two_processes_do_not_write_one_data_set(tmp_path: Path) -> None:
    one = opened(tmp_path, a=1)

    with pytest.raises(DataError, match=f"another process prepares {tmp_path}: wait for it"):
        opened(tmp_path, a=1)
    assert one.record


@pytest.mark.parametrize("has_meta", [True, False])
@pytest.mark.parametrize("moved", [0, 1, 2, 3, 4])
def test_a_kill_within_the_move_is_mended_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_meta: bool, moved: int
) -> None:
    use_for_gpt2(monkeypatch)
    for name in ("train.bin", "val.bin", "meta.pkl"):
        (tmp_path / name).write_text("old")
    first = opened(tmp_path)
    first.keep_tokenizer(ByteTokenizer() if has_meta else Gpt2Tokenizer())
    for split, number in (("train", 1), ("val", 2)):
        first.append(split, chunks(number), U2)
    calls, replace = [], os.replace

    def killed(*names: Any) -> None:
        calls.append(names)
        if len(calls) == moved + 1:
            raise Killed
        replace(*names)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(unfinished.os, "replace", killed)
        first.finish()
        raise Killed
    first.close()
    contents = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path) if name != UNFINISHED}
    assert b"old" not in contents.values() or "val.bin" not in contents or len(calls) == 1

    if (tmp_path / UNFINISHED).exists():
        again = opened(tmp_path)
        if not again.record.get("complete"):
            again.save(complete=True)
        assert again.finish() == (4, 4)
    assert sorted(os.listdir(tmp_path)) == [*(["meta.pkl"] if has_meta else []), "train.bin", "val.bin"]
    assert np.fromfile(tmp_path / "val.bin", U2).tolist() == [2] * 4
    if has_meta:
        assert isinstance(tokenizer_from_meta(read_meta(tmp_path / "meta.pkl")), ByteTokenizer)


@pytest.mark.parametrize(("fraction", "cut"), [(0.01, 8), (0.3, 8), (0.5, 6), (0.99, 1)])
@pytest.mark.parametrize("block", [3, 100])
def test_rows_are_divided_after_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fraction: float, cut: int, block: int
) -> None:
    monkeypatch.setattr(unfinished, "SAVE_BYTES", block)
    ids = np.array([0, 5, 5, 5, 5, 0, 5, 0, 5, 0], U2)
    work = opened(tmp_path)
    work.append("train", iter([(1, ids)]), U2)
    for _ in range(2):  # a second call, after a kill before the end was cut off
        work.divide(0, fraction, U2)
        assert np.fromfile(work.path / "train.bin", U2).tolist() == ids[:cut].tolist()
        assert np.fromfile(work.path / "val.bin", U2).tolist() == ids[cut:].tolist()
    assert work.record["tokens"] == {"train": cut, "val": 10 - cut}


def test_a_single_row_cannot_be_divided(tmp_path: Path) -> None:
    work = opened(tmp_path)
    work.append("train", iter([(1, np.array([5, 5, 0], U2))]), U2)

    with pytest.raises(DataError, match="has a single row with text, wanted 2 or more"):
        work.divide(0, 0.1, U2)


def test_a_discarded_data_set_leaves_nothing(tmp_path: Path) -> None:
    opened(tmp_path / "new").discard()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "train.bin").touch()
    opened(tmp_path / "old").discard()

    assert os.listdir(tmp_path) == ["old"] and os.listdir(tmp_path / "old") == ["train.bin"]
