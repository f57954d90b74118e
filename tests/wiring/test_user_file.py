"""Python files of the user's: their imports and their errors. See also test_callbacks_file.py."""

import sys
from pathlib import Path

import pytest

from core import ConfigError
from wiring.user_file import place_in, user_module


def test_a_file_is_run_under_a_private_name(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("own").mkdir()
    Path("own/helper_of_file.py").write_text("NUMBER = 3")
    Path("own/mine.py").write_text("from helper_of_file import NUMBER\nfrom dataclasses import dataclass\n")
    with user_module(Path("own/mine.py"), "some_option", "a file") as module:
        assert module.NUMBER == 3 and module.__name__ == "_some_option"
    assert sys.path[-1] == str(run_dir / "own")


def test_an_error_inside_is_placed_in_the_users_file(run_dir: Path) -> None:
    Path("mine.py").write_text("def fails():\n    return 1 / 0\n")
    with (
        pytest.raises(ConfigError, match="^mine.py:2: running it fails with ZeroDivisionError: .* or remove my_option"),
        user_module(Path("mine.py"), "my_option", "a file") as module,
    ):
        module.fails()


def test_a_missing_file_is_named_with_a_near_one(run_dir: Path) -> None:
    Path("mine.py").touch()
    with (
        pytest.raises(
            ConfigError, match="^opt=mien.py: there is no such file, wanted a text, or None; did you mean mi"
        ),
        user_module(Path("mien.py"), "opt", "a text"),
    ):
        pass
    assert place_in(ValueError(), Path("mine.py")) == "mine.py"
