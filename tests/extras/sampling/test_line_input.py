"""Lines of a pipe, and where the history of typed lines is kept; for lines typed on a terminal see tests/world."""

import io
import sys
from pathlib import Path

import pytest

from extras.sampling.line_input import LineInput, history_path


def lines_of(text: bytes, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))
    lines = LineInput()
    assert not lines.is_terminal
    return [*iter(lines.read, None)]


def test_lines_of_a_pipe_come_without_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of(b"a b \n\nc\r\nd", monkeypatch) == ["a b ", "", "c", "d"]
    assert lines_of(b"", monkeypatch) == []


def test_a_mark_at_the_beginning_is_dropped_and_bad_bytes_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of(b"\xef\xbb\xbfa\nb\xff\n", monkeypatch) == ["a", "b\ufffd"]


def test_a_closed_stdin_has_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert LineInput().read() is None


def test_reading_a_pipe_shows_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines_of(b"a\n", monkeypatch)
    assert capsys.readouterr() == ("", "")


def test_the_history_is_in_the_folder_for_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    default = Path("/home/somebody/.local/state/coregpt/history")

    assert history_path({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "coregpt" / "history"
    assert history_path({}) == history_path({"XDG_STATE_HOME": "relative"}) == default


def test_without_a_home_there_is_no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    assert history_path({}) is None
