"""data/shakespeare_char/prepare.py: the files and the lines of nanoGPT."""

import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.shakespeare_char.prepare import main

SCRIPT = Path(__file__).resolve().parents[2] / "data" / "shakespeare_char" / "prepare.py"
TEXT = "First Citizen:\nSpeak, speak.\n" * 60


def test_the_files_are_nanogpts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text(TEXT)

    main(["--input", str(tmp_path / "text"), "--out", str(tmp_path / "out")])

    characters = sorted(set(TEXT))
    ids = np.array([characters.index(c) for c in TEXT], dtype=np.uint16)
    cut = int(len(TEXT) * 0.9)
    out = tmp_path / "out"
    assert (out / "train.bin").read_bytes() == ids[:cut].tobytes()
    assert (out / "val.bin").read_bytes() == ids[cut:].tobytes()
    assert pickle.loads((out / "meta.pkl").read_bytes()) == {
        "vocab_size": len(characters),
        "itos": dict(enumerate(characters)),
        "stoi": {c: i for i, c in enumerate(characters)},
    }
    assert capsys.readouterr().out == (
        "length of dataset in characters: 1,740\n"
        "all the unique characters: \n ,.:CFSaeiknprstz\n"
        "vocab size: 18\n"
        "train has 1,566 tokens\n"
        "val has 174 tokens\n"
    )


def test_the_script_runs_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT)

    command = [sys.executable, str(SCRIPT), "--input", "text", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "text is not the well-known tiny Shakespeare\n")
    assert sorted(os.listdir(tmp_path / "out")) == ["meta.pkl", "train.bin", "val.bin"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "the text is too short"), ("abc", "the text is too short"), (None, "cannot read")],
)
def test_bad_input_is_one_message_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    message: str,
) -> None:
    if text is not None:
        (tmp_path / "text").write_text(text)
    arguments = ["--input", str(tmp_path / "text"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["prepare.py", *arguments])

    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")

    assert stopped.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
