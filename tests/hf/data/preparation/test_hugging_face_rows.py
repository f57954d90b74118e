"""Texts from data sets of Hugging Face's `datasets`: local files here, and the words when there is no hub."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ConfigError, CoreGPTError, DataError
from data.meta import read_meta
from data.preparation import hugging_face_rows, prepare_texts
from data.preparation.hugging_face_rows import HuggingFaceRows
from data.text.prepare import main
from data.tokenizers import tokenizer_from_meta
from tests.data.preparation.small_encoding import use_for_gpt2

ROWS = [f"row {number}\nthe end's  here " for number in range(40)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text, "n": 1, "title": "t"}) + "\n" for text in ROWS))
    return path


def ids(folder: Path) -> tuple[list[int], list[int]]:
    train, val = (np.fromfile(folder / f"{split}.bin", np.uint16).tolist() for split in ("train", "val"))
    return train, val


def rows(name: str, split: str = "train", column: str = "text") -> HuggingFaceRows:
    return HuggingFaceRows(name, None, split, column)


def test_json_parquet_and_text_files_give_their_rows(file: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": ROWS})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    for name in ("rows.jsonl", "rows.parquet"):
        source = rows(str(tmp_path / name))
        assert list(source.texts()) == ROWS and list(source.texts(begin=37)) == ROWS[37:]
    (tmp_path / "lines.txt").write_text("a\n\nb c\n")
    assert list(rows(str(tmp_path / "lines.txt")).texts()) == ["a", "", "b c"]


def test_an_end_follows_each_row(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    use_for_gpt2(monkeypatch)
    from data.tokenizers import Gpt2Tokenizer

    tokenizer = Gpt2Tokenizer()
    main(["--hf-dataset", str(file), "--tokenizer", "gpt2", "--out", str(tmp_path / "out"), "--workers", "2"])
    train, val = ids(tmp_path / "out")

    assert train + val == [id_ for text in ROWS for id_ in [*tokenizer.encode_ordinary(text), tokenizer.eot_token]]
    assert train[-1] == val[-1] == tokenizer.eot_token and 3 <= val.count(tokenizer.eot_token) <= 4
    assert capsys.readouterr().out.startswith(f"length of dataset in rows: 40\nvocab size: {tokenizer.vocab_size}\n")


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_other_tokenizers_read_the_rows_back(file: Path, tmp_path: Path, tokenizer: str) -> None:
    main(["--hf-dataset", str(file), "--tokenizer", tokenizer, "--name", "mine"], data=tmp_path)
    found = tokenizer_from_meta(read_meta(tmp_path / "mine" / "meta.pkl"))
    train, val = ids(tmp_path / "mine")
    end = "<|endoftext|>" if tokenizer == "bpe" else "\n"

    assert found.decode(train) + found.decode(val) == "".join(text + end for text in ROWS)


def test_a_killed_preparation_skips_the_rows_it_has(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--hf-dataset", str(file), "--tokenizer", "bpe", "--workers", "1"]
    main([*command, "--out", str(tmp_path / "whole")])
    monkeypatch.setattr(hugging_face_rows, "ROWS", 3)
    encode = prepare_texts.encode_in_order

    def killed(*arguments: Any) -> Any:
        for number, chunk in enumerate(encode(*arguments)):
            if number == 5:
                raise KeyboardInterrupt
            yield chunk

    monkeypatch.setattr("data.preparation.unfinished.SAVE_BYTES", 10)
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(prepare_texts, "encode_in_order", killed)
            main([*command, "--out", str(tmp_path / "killed")])
    main([*command, "--out", str(tmp_path / "killed")])

    assert ids(tmp_path / "killed") == ids(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["meta.pkl", "train.bin", "val.bin"]


def test_null_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"text": "b"}\n')

    assert list(rows(str(tmp_path / "a.jsonl")).texts()) == ["a", "b"]
    assert [piece for piece in rows(str(tmp_path / "a.jsonl")).pieces(1)] == [(2, ["b"])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(column="texts"), "--text-column is 'texts', wanted a column of .*rows.jsonl: text, n, title$"),
        (dict(column="n"), "--text-column is 'n', a column of int in .*, wanted one of text: text, title"),
        (dict(split="test"), r"cannot open .* split test \(Bad split: test. Available splits: \['train'\]\)"),
    ],
)
def test_wrong_arguments_get_what_there_is(file: Path, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rows(str(file), **arguments)


def test_without_a_network_a_local_file_is_suggested() -> None:
    with pytest.raises(ConfigError, match="cannot open the data set no/such of Hugging Face.* --hf-dataset FILE"):
        rows("no/such")
    with pytest.raises(ConfigError, match="no file at missing.jsonl: give --hf-dataset a .jsonl"):
        rows("missing.jsonl")


def test_files_that_hold_no_rows_are_one_message(tmp_path: Path) -> None:
    for name, content in (("empty.jsonl", ""), ("bad.jsonl", "{bad\n"), ("bad.parquet", "xx"), ("a.bin", "x")):
        (tmp_path / name).write_text(content)
        with pytest.raises(CoreGPTError, match=r"no rows|cannot (open|read) the data set|unknown ending"):
            rows(str(tmp_path / name))
    (tmp_path / "null.jsonl").write_text('{"text": null}\n' * 3)
    for tokenizer in ("byte", "char"):
        with pytest.raises(DataError, match="the files or rows hold no text"):
            main(
                ["--hf-dataset", str(tmp_path / "null.jsonl"), "--tokenizer", tokenizer, "--name", "null"],
                data=tmp_path,
            )
    assert not (tmp_path / "null").exists()


def test_a_missing_package_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match="--hf-dataset needs the package datasets .*: pip install"):
        rows(str(file))
