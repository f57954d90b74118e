"""Presets by name, and `--key value`."""

import pytest

from coregpt.arguments import read_arguments, with_values
from coregpt.presets import presets

NAMES, SWITCHES = {"n_layer", "start", "compile", "out_dir"}, {"compile"}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--n_layer", "3", "x.py"], ["--n_layer=3", "x.py"]),
        (["--n_layer=3", "--start", "--out_dir"], ["--n_layer=3", "--start=--out_dir"]),
        (["--start", "True"], ["--start=True"]),
        (["--compile", "False", "x.py"], ["--compile=False", "x.py"]),
        (["--compile", "x.py"], ["--compile=True", "x.py"]),
        (["--compile", "false", "--n_layer", "-1"], ["--compile=True", "false", "--n_layer=-1"]),
        (["--compile"], ["--compile=True"]),
        (["--model.n_layer", "3"], ["--model.n_layer=3"]),
        (["--n_layer"], ["--n_layer"]),
        (["--unknown", "3", "-x", "4"], ["--unknown=3", "-x", "4"]),
        (["--lr", "quickstart", "--lr", "x.py", "--lr"], ["--lr", "quickstart", "--lr", "x.py", "--lr"]),
    ],
)
def test_a_value_may_stand_after_its_option(argv: list[str], expected: list[str]) -> None:
    assert with_values(argv, NAMES, SWITCHES) == expected


def test_words_that_are_no_options_are_presets_or_files(run_dir: object) -> None:
    argv = ["quickstart", "--wandb_log", "--n_layer", "2", "--start", "quickstart"]

    path = str(presets()["quickstart"])
    assert read_arguments("train", argv) == [path, "--wandb_log=True", "--n_layer=2", "--start=quickstart"]
    assert read_arguments("sample", argv[-2:]) == ["--start=quickstart"]


@pytest.mark.parametrize(("program", "option"), [("train", "--batch_size=12 "), ("sample", "--top_k=200 ")])
def test_help_is_printed_in_lines_of_100_columns(program: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_arguments(program, ["--help"])
    shown = capsys.readouterr().out

    assert shown.startswith("usage: ") and option in shown
    assert max(map(len, shown.splitlines())) <= 100
