"""Errors of writing what a tool makes."""

from pathlib import Path

import pytest

from core.errors import ConfigError
from tools.output import refuse_unwritable


def test_a_place_that_cannot_be_written_is_named_with_its_option(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with (
        pytest.raises(
            ConfigError, match=r"^--to=.*taken/x cannot be written \(Not a directory\): choose another place$"
        ),
        refuse_unwritable("--to", tmp_path / "taken" / "x"),
    ):
        (tmp_path / "taken" / "x").mkdir()


def test_other_errors_are_refused_only_if_named() -> None:
    with (
        pytest.raises(ConfigError, match=r"^--file=x.q cannot be written \(ValueError: q\): choose another place$"),
        refuse_unwritable("--file", Path("x.q"), ValueError),
    ):
        raise ValueError("q")
    with pytest.raises(ValueError, match="^q$"), refuse_unwritable("--file", Path("x.q")):
        raise ValueError("q")
