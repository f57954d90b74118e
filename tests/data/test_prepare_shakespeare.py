"""data/shakespeare/prepare.py: GPT-2 tokens, and no meta.pkl, as nanoGPT."""

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from core.errors import DataError
from data.shakespeare.prepare import main
from data.tokenizers import Gpt2Tokenizer

SCRIPT = Path(__file__).resolve().parents[2] / "data" / "shakespeare" / "prepare.py"
TEXT = "First Citizen:\nBefore we proceed, <|endoftext|>\n" * 20


@pytest.fixture(scope="module")
def gpt2() -> Gpt2Tokenizer:
    try:
        return Gpt2Tokenizer()
    except DataError as error:
        pytest.skip(str(error))


def test_the_files_are_nanogpts(gpt2: Gpt2Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The halves are cut by characters and then encoded, the special token's name as the text it is."""
    (tmp_path / "text").write_text(TEXT)

    main(["--input", str(tmp_path / "text"), "--out", str(tmp_path / "out")])

    cut = int(len(TEXT) * 0.9)
    train, val = gpt2.encode_ordinary(TEXT[:cut]), gpt2.encode_ordinary(TEXT[cut:])
    assert np.fromfile(tmp_path / "out" / "train.bin", dtype=np.uint16).tolist() == train
    assert np.fromfile(tmp_path / "out" / "val.bin", dtype=np.uint16).tolist() == val
    assert sorted(os.listdir(tmp_path / "out")) == ["train.bin", "val.bin"]
    assert capsys.readouterr().out == f"train has {len(train):,} tokens\nval has {len(val):,} tokens\n"


def test_bad_input_is_one_message_and_status_2(
    gpt2: Gpt2Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--input", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["prepare.py", *arguments])

    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")

    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: cannot read")
    assert not (tmp_path / "out").exists()
