"""The options of a run, and the data set that they name."""

from pathlib import Path

import pytest

import train
from config.options import Options
from core.checkpoint.format import load_checkpoint
from core.errors import DataError
from wiring.run_options import read_options, with_data_set


def test_options_come_from_the_command_line(run_dir: Path) -> None:
    assert read_options(["--dataset=tiny", "--n_layer=3"]).n_layer == 3


def test_a_text_file_becomes_the_data_set_that_is_made_of_it(run_dir: Path, tiny_argv: list[str]) -> None:
    Path("notes.txt").write_text("to be or not to be\n" * 40)

    train.main([*tiny_argv, "--dataset=notes.txt", "--max_iters=1", "--eval_interval=1"])
    saved = load_checkpoint("out/ckpt.pt")
    assert saved["config"]["dataset"] == "notes" and saved["model_args"]["vocab_size"] == 8
    train.main([*tiny_argv, "--dataset=notes.txt", "--max_iters=2", "--eval_interval=1", "--init_from=resume"])
    assert load_checkpoint("out/ckpt.pt")["config"]["dataset"] == "notes"


def test_only_rank_0_makes_it(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("notes.txt").write_text("to be")
    monkeypatch.setenv("RANK", "1")

    assert with_data_set(Options(dataset="notes.txt")).dataset == "notes"
    assert not Path("data/notes").exists()


def test_the_quick_starts_data_set_is_made_where_it_is_missing(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_data_set(Options(dataset="python_stdlib"))

    assert Path("data/python_stdlib/train.bin").is_file()
    shown = capsys.readouterr()
    assert shown.out == "" and "length of dataset in characters" in shown.err
    with_data_set(Options(dataset="python_stdlib"))
    with_data_set(Options(dataset="shakespeare_char"))
    assert capsys.readouterr().err == "" and not Path("data/shakespeare_char").exists()


def test_a_script_of_the_user_with_the_same_name_is_left_to_the_user(run_dir: Path) -> None:
    Path("data/python_stdlib").mkdir()
    Path("data/python_stdlib/prepare.py").touch()
    with_data_set(Options(dataset="python_stdlib"))

    assert not Path("data/python_stdlib/train.bin").exists()


def test_a_text_that_is_not_there_is_one_message(run_dir: Path) -> None:
    Path("notes.txt").touch()

    with pytest.raises(DataError, match="^dataset=nots.txt: there is no such file, .*; did you mean notes.txt"):
        with_data_set(Options(dataset="nots.txt"))
