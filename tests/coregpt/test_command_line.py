"""The command `coregpt`: its help, its errors, and the programs that it runs."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import commands
from coregpt.command_line import PROGRAMS, main


@pytest.fixture(autouse=True)
def entrance() -> Iterator[None]:
    yield
    commands._entrance = None


def status(*argv: str, entrance: str = "coregpt") -> int | str | None:
    """Return the exit status of a command line."""
    try:
        main(entrance, argv)
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(*argv, entrance="python -m coregpt") == 0
    shown = capsys.readouterr().out

    assert shown.startswith("usage: python -m coregpt COMMAND ...\n") and max(map(len, shown.splitlines())) <= 100
    assert all(re.search(f"^  {name} ", shown, re.MULTILINE) for name in PROGRAMS)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--version") == 0
    assert re.fullmatch(r"coregpt \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "error: 'trian' is no command of coregpt, did you mean train? (coregpt --help lists them)"),
        (["prepare", "txt"], "error: prepare txt: got an unknown data set, wanted one of openwebtext, python_stdlib, "),
        (["train", "--dataset=gone"], "error: no data at data/gone/train.bin: set dataset to one of: tiny"),
        (
            ["train", "--dataset=shakespeare"],
            "error: no data at data/shakespeare/train.bin: run `coregpt prepare s",
        ),
        (["sample", "--out_dir=gone"], "error: no checkpoint at gone/ckpt.pt"),
        (["curve", "gone"], "error: no metrics at gone"),
    ],
)
def test_an_error_is_one_message_with_the_commands_of_this_door(
    run_dir: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["--device=cpu"] if argv[0] in ("train", "sample") else []

    assert status(*argv, *extra) == 2
    assert message in capsys.readouterr().err


def test_a_text_is_prepared_in_the_current_folder(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("book.txt").write_text("some text " * 9)

    assert status("prepare", "text", "book.txt", "--name=book", "--tokenizer=byte") == 0
    assert Path("data/book/train.bin").is_file()
    assert status("prepare") == 0
    assert "usage: coregpt prepare NAME ...\n\nNAME is one of: openwebtext, python" in capsys.readouterr().out


def test_a_run_ends_with_the_command_that_goes_on(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("train", *tiny_argv, "--time_limit=1e-9") == 75
    assert status("train", *tiny_argv, "--max_iters", "1") == 0
    assert status("run-hash", "out") == 0
    shown = capsys.readouterr()

    assert "stopped by the time limit of 1e-09 hours before the first update" in shown.err
    assert re.search(r"^[0-9a-f]{32,}", shown.out.splitlines()[-1])
