"""The commands that messages suggest, by the way in which the user started the program."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import commands
from core.commands import argument_parser, as_typed, command, enter_by, install_command, is_run_by_path, script_command

PROGRAMS = ["train.py", "tools/curve.py", "data/text/prepare.py", "data/dual_mode/prepare_streaming.py"]


@pytest.fixture
def installed() -> Iterator[None]:
    enter_by("coregpt")
    yield
    commands._entrance = None


def test_in_a_checkout_programs_are_started_by_their_paths() -> None:
    assert is_run_by_path()
    assert [command(program) for program in PROGRAMS] == [
        "python train.py",
        "python -m tools.curve",
        "python data/text/prepare.py",
        "python data/dual_mode/prepare_streaming.py",
    ]
    assert command("train.py", "torchrun --nproc_per_node=2") == "torchrun --nproc_per_node=2 train.py"


def test_the_command_coregpt_starts_all_programs(installed: None) -> None:
    assert not is_run_by_path()
    assert [command(program) for program in PROGRAMS] == [
        "coregpt train",
        "coregpt curve",
        "coregpt prepare text",
        "coregpt prepare_streaming dual_mode",
    ]
    assert command("train.py", "torchrun --nproc_per_node=2") == "torchrun --nproc_per_node=2 -m coregpt train"


def test_a_script_of_the_user_is_started_by_its_path(installed: None) -> None:
    assert script_command(Path("data/mine/prepare.py")) == "python data/mine/prepare.py"


def test_the_python_of_an_environment_that_is_not_active_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert command("train.py") == "python train.py"
    monkeypatch.delenv("VIRTUAL_ENV")
    assert command("train.py") == ".venv/bin/python train.py"


def test_help_shows_the_commands_of_the_user(installed: None) -> None:
    text = "python -m tools.curve out\n    python data/text/prepare.py FILE; python -c 1"

    assert as_typed(text) == "coregpt curve out\n    coregpt prepare text FILE; python -c 1"
    shown = argument_parser("tools/curve.py", text).format_help()
    assert shown.startswith("usage: coregpt curve [-h]\n\ncoregpt curve out\n")


def test_the_packages_of_a_feature_are_installed_by_its_extra() -> None:
    assert install_command("hf") == "pip install -e '.[hf]'"
