"""A text file as a data set: prepared once, and again when it has changed."""

import os
from pathlib import Path

import pytest

from core.errors import ConfigError, DataError
from data.meta import read_meta
from data.text_file import data_set_name, prepare
from data.tokenizers import tokenizer_from_meta


def test_a_text_is_prepared_once_and_again_when_it_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, folder = tmp_path / "notes.txt", tmp_path / "data" / "notes"
    text.write_text("abc\n" * 20)
    prepare(text, folder)
    first = os.stat(folder / "train.bin").st_ino
    assert tokenizer_from_meta(read_meta(folder / "meta.pkl")).decode([0, 1, 2, 3]) == "\nabc"

    prepare(text, folder)
    assert os.stat(folder / "train.bin").st_ino == first
    text.write_text("abcd\n" * 20)
    prepare(text, folder)
    assert read_meta(folder / "meta.pkl")["vocab_size"] == 5
    shown = capsys.readouterr()
    assert shown.out == "" and f"data: {text} has changed since {folder} was made of it\n" in shown.err


def test_a_half_written_data_set_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("abc\n" * 20)
    prepare(tmp_path / "notes.txt", tmp_path / "notes")
    (tmp_path / "notes" / "val.bin").unlink()

    prepare(tmp_path / "notes.txt", tmp_path / "notes")
    assert (tmp_path / "notes" / "val.bin").is_file()


def test_another_text_of_that_name_does_not_replace_the_first(tmp_path: Path) -> None:
    for folder, content in (("a", "abc\n" * 9), ("b", "xyz\n" * 9), ("c", "abc\n" * 9)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "input.txt").write_text(content)
    prepare(tmp_path / "a" / "input.txt", tmp_path / "input")
    prepare(tmp_path / "c" / "input.txt", tmp_path / "input")  # the same text

    with pytest.raises(ConfigError, match="holds a data set that was not made of .*b/input.txt"):
        prepare(tmp_path / "b" / "input.txt", tmp_path / "input")


def test_another_data_set_of_that_name_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("abc")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "train.bin").write_bytes(b"1234")

    with pytest.raises(ConfigError, match="holds a data set that was not made of .*notes.txt: train on it with "):
        prepare(tmp_path / "notes.txt", tmp_path / "notes")
    assert (tmp_path / "notes" / "train.bin").read_bytes() == b"1234"


@pytest.mark.parametrize(("content", "message"), [(b"", "^no text in "), (b"a\xff\xfeb" * 9, "UTF-8")])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.txt").write_bytes(content)

    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "x.txt", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("path", "name"), [("my/notes.txt", "notes"), ("a b (1).md", "a_b_1_"), (".hidden", "hidden"), ("...", "text")]
)
def test_the_name_of_the_data_set_is_that_of_the_file(path: str, name: str) -> None:
    assert data_set_name(Path(path)) == name
