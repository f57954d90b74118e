"""data/text/prepare.py: one's own text under any tokenizer, and never over somebody else's files."""

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from core.errors import ConfigError, CoreGPTError, DataError
from data.meta import read_meta
from data.text.prepare import byte_count, main
from data.tokenizers import Gpt2Tokenizer, tokenizer_from_meta
from tests.data.preparation.small_encoding import use_for_gpt2

SCRIPT = Path(__file__).resolve().parents[2] / "data" / "text" / "prepare.py"
TEXT = "Où est-il ?\n" * 20


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def read_back(folder: Path) -> tuple[str, str]:
    tokenizer = tokenizer_from_meta(read_meta(folder / "meta.pkl") if (folder / "meta.pkl").exists() else None)
    train, val = (np.fromfile(folder / f"{name}.bin", dtype=np.uint16).tolist() for name in ("train", "val"))
    return tokenizer.decode(train), tokenizer.decode(val)


@pytest.mark.parametrize(("tokenizer", "vocab_size"), [("char", len(set(TEXT))), ("byte", 256)])
def test_the_text_can_be_read_back(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: str, vocab_size: int
) -> None:
    main([text, "--name", "mine", "--tokenizer", tokenizer], data=tmp_path)

    assert read_back(tmp_path / "mine") == (TEXT[:216], TEXT[216:])
    assert capsys.readouterr().out.startswith(
        f"length of dataset in characters: 240\nvocab size: {vocab_size}\ntrain has "
    )


def test_gpt2_tokens_need_no_meta(text: str, tmp_path: Path) -> None:
    try:
        Gpt2Tokenizer()
    except DataError as error:
        pytest.skip(str(error))

    main([text, "--name", "mine", "--tokenizer", "gpt2"], data=tmp_path)

    assert read_back(tmp_path / "mine") == (TEXT[:216], TEXT[216:])
    assert sorted(os.listdir(tmp_path / "mine")) == ["train.bin", "val.bin"]


def test_files_are_joined_in_the_order_given(tmp_path: Path) -> None:
    for name in "ba":
        (tmp_path / name).write_text(name * 10)

    main([str(tmp_path / "b"), str(tmp_path / "a"), "--name", "mine", "--tokenizer", "char"], data=tmp_path)

    assert read_back(tmp_path / "mine") == ("b" * 10 + "a" * 8, "aa")


def test_byte_order_marks_are_no_characters(tmp_path: Path) -> None:
    """Neither at the beginning nor where two files are joined."""
    for name, encoding in (("a", "utf-8-sig"), ("b", "utf-16")):
        (tmp_path / name).write_text(name * 10, encoding=encoding)

    main([str(tmp_path / "a"), str(tmp_path / "b"), "--name", "mine", "--tokenizer", "char"], data=tmp_path)

    assert read_back(tmp_path / "mine") == ("a" * 10 + "b" * 8, "bb")
    assert read_meta(tmp_path / "mine" / "meta.pkl")["stoi"] == {"a": 0, "b": 1}


def test_the_split_can_be_chosen(text: str, tmp_path: Path) -> None:
    main([text, "--name", "mine", "--tokenizer", "char", "--val-fraction", "0.5"], data=tmp_path)

    assert read_back(tmp_path / "mine") == (TEXT[:120], TEXT[120:])


def test_a_data_set_of_ours_may_be_replaced(text: str, tmp_path: Path) -> None:
    for tokenizer in ("char", "byte"):
        main([text, "--name", "mine", "--tokenizer", tokenizer], data=tmp_path)
        (tmp_path / "mine" / "input.txt").touch()

    assert read_meta(tmp_path / "mine" / "meta.pkl")["tokenizer"] == "byte"


@pytest.mark.parametrize("file", ["prepare.py", "notes.md", "train.bin.old"])
def test_a_folder_with_other_files_is_left_alone(text: str, tmp_path: Path, file: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / file).touch()

    with pytest.raises(ConfigError, match=rf"mine holds other files \({file}\): choose another --name"):
        main([text, "--name", "mine", "--tokenizer", "char"], data=tmp_path)

    assert os.listdir(tmp_path / "mine") == [file]


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/a", "a\\b", "c:d"])
def test_a_name_that_is_a_path_is_refused(text: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"--name is .*, wanted a plain name"):
        main([text, "--name", name, "--tokenizer", "char"], data=tmp_path)

    assert os.listdir(tmp_path) == ["text.txt"]


def test_a_name_that_is_a_file_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"text\.txt is a file: choose another --name"):
        main([text, "--name", "text.txt", "--tokenizer", "char"], data=tmp_path)


@pytest.mark.parametrize("fraction", ["0", "1", "-0.1", "90", "nan"])
def test_a_fraction_that_leaves_a_split_empty_is_refused(text: str, tmp_path: Path, fraction: str) -> None:
    with pytest.raises(ConfigError, match=r"--val-fraction is .*, wanted a number between 0 and 1"):
        main([text, "--name", "mine", "--tokenizer", "char", f"--val-fraction={fraction}"], data=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"), [("", "no text in .*short.txt"), ("abcdefghij", "too short: 1 tokens")]
)
def test_too_little_text_is_one_clear_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "short.txt").write_text(content)

    with pytest.raises(CoreGPTError, match=message):
        main([str(tmp_path / "short.txt"), "--name", "mine", "--tokenizer", "char"], data=tmp_path)

    assert os.listdir(tmp_path) == ["short.txt"]


def test_bad_input_is_one_message_and_status_2(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name of an existing set's folder is refused at the script's own door, too."""
    monkeypatch.setattr(sys, "argv", ["prepare.py", text, "--name", "shakespeare", "--tokenizer", "char"])

    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")

    assert stopped.value.code == 2
    assert "prepare.py): choose another --name" in capsys.readouterr().err


@pytest.mark.parametrize("tokenizer", ["char", "byte", "gpt2"])
def test_workers_change_neither_files_nor_words(
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tokenizer: str,
) -> None:
    use_for_gpt2(monkeypatch)
    main([text, text, "--name", "one", "--tokenizer", tokenizer], data=tmp_path)
    words = capsys.readouterr()
    main([text, text, "--out", str(tmp_path / "new" / "two"), "--tokenizer", tokenizer, "--workers", "2"])

    assert capsys.readouterr() == words
    names = sorted(os.listdir(tmp_path / "one"))
    assert names == sorted(os.listdir(tmp_path / "new" / "two"))
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "new" / "two" / n).read_bytes() for n in names)


def test_a_bpe_of_ones_own_reads_the_text_back(text: str, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    main([text, "--name", "mine", "--tokenizer", "bpe", "--vocab-size", "260", "--train-bytes", "0.2KB"], data=tmp_path)

    assert read_back(tmp_path / "mine") == (TEXT[:216], TEXT[216:])
    assert read_meta(tmp_path / "mine" / "meta.pkl")["vocab_size"] == 260


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokenizer", "bpe", "--vocab-size", "256"], "--vocab-size is 256, wanted 257 or more: the 256 bytes and"),
        (["--tokenizer", "char", "--vocab-size", "300"], "--vocab-size has a meaning only with --tokenizer bpe"),
        (["--tokenizer", "gpt2", "--train-bytes", "1MB"], "--train-bytes has a meaning only with --tokenizer bpe"),
        (["--tokenizer", "char", "--text-column", "x"], "--text-column has a meaning only with --hf-dataset"),
        (["--tokenizer", "char", "--hf-dataset", "x"], "both FILE and --hf-dataset are given"),
    ],
)
def test_options_that_do_not_go_together(text: str, tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main([text, "--name", "mine", *arguments], data=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--name", "x", "--tokenizer", "words"], "argument --tokenizer: invalid choice: 'words'"),
        (["--name", "x", "--tokenizer", "char"], "the following arguments are required: FILE"),
        (["a", "--tokenizer", "char"], "give --name NAME, for the folder data/NAME, or --out FOLDER, and not both"),
        (["a", "--tokenizer", "char", "--name", "x", "--out", "y"], "or --out FOLDER, and not both"),
        (["a", "--name", "x", "--tokenizer", "char", "--workers", "0"], "got 0, wanted a whole number from 1 to 9999"),
        (["a", "--name", "x", "--tokenizer", "bpe", "--train-bytes", "1XB"], "got 1XB, wanted a size such as 100MB"),
    ],
)
def test_a_wrong_command_is_one_message(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)

    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_sizes_have_units() -> None:
    given = {"1": 1, "100MB": 10**8, "1.5kb": 1500, "2 G": 2 * 10**9}

    assert {size: byte_count(size) for size in given} == given
