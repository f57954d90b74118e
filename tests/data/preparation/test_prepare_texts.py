"""Files to a data set in pieces: the same files as all at once, also when the process is killed on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import DataError
from data.corpus import split_text, write_text
from data.meta import read_meta
from data.preparation import encoding, prepare_texts, text_pieces, unfinished
from data.preparation.prepare_texts import Settings
from data.preparation.text_pieces import FileTexts
from data.preparation.unfinished import UNFINISHED
from data.tokenizers import ByteTokenizer, CharTokenizer, Gpt2Tokenizer, Tokenizer, tokenizer_from_meta
from tests.data.preparation.small_encoding import use_for_gpt2

ROOT = Path(__file__).resolve().parents[3]
TEXT = "The king's men,  and\n\n the queen's 1234 é漢🙂!the\tend\r\n" * 200


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read, cut and save after a few characters."""
    use_for_gpt2(monkeypatch)
    monkeypatch.setattr(text_pieces, "BLOCK_BYTES", 500)
    monkeypatch.setattr(unfinished, "SAVE_BYTES", 600)
    monkeypatch.setattr(prepare_texts.pieces, "__defaults__", (100, 10**4))


@pytest.fixture
def source(tmp_path: Path) -> FileTexts:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8", newline="")
    (tmp_path / "b.txt").write_text("then " + TEXT[:99], encoding="utf-16", newline="")
    return FileTexts([tmp_path / "a.txt", tmp_path / "b.txt"])


def settings(tokenizer: str, **changes: Any) -> Settings:
    return Settings(tokenizer, 300, 2000, 0.1)._replace(**changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["char", "byte", "gpt2"])
@pytest.mark.parametrize("fraction", [0.1, 0.33])
def test_the_files_are_those_of_the_whole_text(source: FileTexts, tmp_path: Path, name: str, fraction: float) -> None:
    text = "".join(source.texts())
    tokenizers: dict[str, Tokenizer] = {"char": CharTokenizer.from_text(text), "byte": ByteTokenizer()}
    write_text(tmp_path / "whole", text, tokenizers.get(name) or Gpt2Tokenizer(), fraction)

    counts = prepare_texts.prepare_texts(source, settings(name, val_fraction=fraction), tmp_path / "pieces", 2)

    assert contents(tmp_path / "pieces") == contents(tmp_path / "whole")
    assert (counts.length, counts.train_tokens) == (len(text), len(contents(tmp_path / "whole")["train.bin"]) // 2)


def test_a_bpe_has_the_tokens_of_the_whole_text(source: FileTexts, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    counts = prepare_texts.prepare_texts(source, settings("bpe"), tmp_path / "bpe", 2)
    tokenizer = tokenizer_from_meta(read_meta(tmp_path / "bpe" / "meta.pkl"))

    assert 257 < counts.vocab_size == tokenizer.vocab_size <= 300
    for split, text in zip(("train", "val"), split_text("".join(source.texts())), strict=True):
        assert np.fromfile(tmp_path / "bpe" / f"{split}.bin", np.uint16).tolist() == tokenizer.encode_ordinary(text)


@pytest.mark.parametrize("name", ["char", "gpt2", "bpe"])
def test_killed_after_any_piece_the_files_are_the_same(
    source: FileTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == "bpe":
        pytest.importorskip("tokenizers")
    prepare_texts.prepare_texts(source, settings(name), tmp_path / "whole", 1)
    encode_in_order, left = encoding.encode_in_order, [0]

    def killed(*arguments: Any) -> Any:
        for chunk in encode_in_order(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            yield chunk

    monkeypatch.setattr(prepare_texts, "encode_in_order", killed)
    restarts = 0
    while True:
        left[0] = 9
        try:
            prepare_texts.prepare_texts(source, settings(name), tmp_path / "killed", 2)
            break
        except KeyboardInterrupt:
            restarts += 1
            assert os.listdir(tmp_path / "killed") == [UNFINISHED] and restarts < 99
    assert restarts >= 2
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


SLOW = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from data.preparation import prepare_texts, text_pieces, unfinished
from data.preparation.prepare_texts import Settings
text_pieces.BLOCK_BYTES, unfinished.SAVE_BYTES = 2000, 5000
read = text_pieces.FileTexts.read
def slow(*arguments):
    for block in read(*arguments):
        time.sleep(0.01)
        yield block
text_pieces.FileTexts.read = slow
source = text_pieces.FileTexts([Path(sys.argv[2])])
prepare_texts.prepare_texts(source, Settings("char", 0, 0, 0.1), Path(sys.argv[3]), 2)
"""


def test_sigkill_at_any_time_leaves_the_same_files(source: FileTexts, tmp_path: Path) -> None:
    source.paths[0].write_text(TEXT * 10, encoding="utf-8")
    one = FileTexts(source.paths[:1])
    prepare_texts.prepare_texts(one, settings("char", vocab_size=0, train_bytes=0), tmp_path / "whole", 1)
    command = [sys.executable, "-c", SLOW, str(ROOT), str(source.paths[0]), str(tmp_path / "killed")]
    kills = 0
    for wait in (0.1, 0.3, 0.45, 0.6, 60):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        end = time.monotonic() + wait
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
            assert not (tmp_path / "killed" / "train.bin").exists()
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert kills >= 2 and contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_other_settings_begin_again(source: FileTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare_texts, "encode_in_order", killed)
        prepare_texts.prepare_texts(source, settings("char"), tmp_path / "out", 1)
    prepare_texts.prepare_texts(source, settings("byte"), tmp_path / "out", 1)

    assert read_meta(tmp_path / "out" / "meta.pkl")["tokenizer"] == "byte"
    assert sorted(os.listdir(tmp_path / "out")) == ["meta.pkl", "train.bin", "val.bin"]


@pytest.mark.parametrize(("text", "message"), [("", "hold no text"), ("abc", "too short: 1 tokens for val")])
def test_bad_texts_leave_nothing(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "text").write_text(text)
    source = FileTexts([tmp_path / "text"])

    with pytest.raises(DataError, match=message):
        prepare_texts.prepare_texts(source, settings("byte"), tmp_path / "out", 1)
    assert os.listdir(tmp_path) == ["text"]


def test_a_file_that_grows_shorter_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("abc" * 1000)
    source = FileTexts([tmp_path / "text"])
    survey = prepare_texts.survey

    def shortened(*arguments: Any) -> Any:
        found = survey(*arguments)
        (tmp_path / "text").write_text("abc" * 900)
        return found

    monkeypatch.setattr(prepare_texts, "survey", shortened)
    with pytest.raises(DataError, match="ended after 2,700 of .* a file has changed while it was read"):
        prepare_texts.prepare_texts(source, settings("byte"), tmp_path / "out", 1)


def test_a_folder_that_cannot_be_written_to_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abc" * 100)
    (tmp_path / "file").touch()

    with pytest.raises(DataError, match="cannot write the data set to .*file.out: Not a directory; make room"):
        prepare_texts.prepare_texts(FileTexts([tmp_path / "text"]), settings("byte"), tmp_path / "file" / "out", 1)
