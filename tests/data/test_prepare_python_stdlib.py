"""data/python_stdlib/prepare.py: the same text for the same library, whatever the folder lists first."""

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from core.errors import DataError
from data.meta import read_meta
from data.python_stdlib import prepare
from data.python_stdlib.prepare import collect_source, main
from data.tokenizers import tokenizer_from_meta


def library(root: Path, names: list[str], size: int = 10) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}".ljust(size - 1) + "\n")
    return root


def test_the_order_does_not_depend_on_the_folder(tmp_path: Path) -> None:
    names = [f"{letter}.py" for letter in "abcdefghij"]

    one = collect_source(library(tmp_path / "one", names))
    two = collect_source(library(tmp_path / "two", names[::-1]))

    assert one == two
    assert sorted(one.split()[1::2]) == names


def test_the_limit_keeps_complete_modules_from_the_entire_alphabet(tmp_path: Path) -> None:
    names = [f"{letter}{number}.py" for letter in "abcdefghijklmnopqrst" for number in range(10)]

    kept = collect_source(library(tmp_path, names), max_bytes=605).split()[1::2]

    assert len(kept) == 60
    assert {name[0] for name in kept} & set("abcde") and {name[0] for name in kept} & set("pqrst")


@pytest.mark.parametrize(
    "name",
    [
        "test/test_x.py",
        "unittest/test/case.py",
        "json/tests/x.py",
        "site-packages/numpy/x.py",
        "dist-packages/x.py",
        "encodings/cp037.py",
        "idlelib/x.py",
        "lib2to3/x.py",
        "pydoc_data/topics.py",
        "x/__pycache__/x.py",
        "_sysconfigdata__linux_x86_64.py",
        "notes.txt",
    ],
)
def test_files_that_are_not_library_source_are_skipped(tmp_path: Path, name: str) -> None:
    assert collect_source(library(tmp_path, ["kept.py", name])) == "# kept.py\n"


def test_modules_beyond_ascii_or_of_great_length_are_skipped(tmp_path: Path) -> None:
    library(tmp_path, ["kept.py"])
    library(tmp_path, ["long.py"], size=prepare.MAX_FILE_BYTES + 1)
    (tmp_path / "accents.py").write_text("# é\n", encoding="utf-8")

    assert collect_source(tmp_path) == "# kept.py\n"


def test_line_ends_become_newlines(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"a\r\nb\rc\n")

    assert collect_source(tmp_path) == "a\nb\nc\n"


def test_a_link_to_nowhere_is_passed_over(tmp_path: Path) -> None:
    library(tmp_path, ["kept.py"])
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")

    assert collect_source(tmp_path) == "# kept.py\n"


def test_a_folder_without_source_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no Python source in"):
        collect_source(tmp_path / "absent")


def test_the_running_pythons_library_is_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--out", str(tmp_path)])

    meta = read_meta(tmp_path / "meta.pkl")
    tokenizer = tokenizer_from_meta(meta)
    train, val = (np.fromfile(tmp_path / f"{name}.bin", dtype=np.uint16) for name in ("train", "val"))
    assert 2_000_000 < len(train) + len(val) <= prepare.MAX_BYTES
    assert int(max(train.max(), val.max())) < meta["vocab_size"] <= 128
    assert "\ndef " in tokenizer.decode(val.tolist()) and "\nclass " in tokenizer.decode(val.tolist())
    assert capsys.readouterr().out == (
        f"length of dataset in characters: {len(train) + len(val):,}\n"
        f"vocab size: {meta['vocab_size']}\n"
        f"train has {len(train):,} tokens\n"
        f"val has {len(val):,} tokens\n"
    )


def test_bad_input_is_one_message_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--input", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["prepare.py", *arguments])

    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(Path(prepare.__file__)), run_name="__main__")

    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: no Python source in")
    assert os.listdir(tmp_path) == []
