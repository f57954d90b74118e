"""Answers to lines: what is printed where, commands, errors, and Ctrl-C."""

import io
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from core.errors import CheckpointError, ConfigError, DataError
from extras.sampling.chat import COMMANDS, Chat
from extras.sampling.line_input import LineInput


def answer(line: str) -> Iterator[str]:
    if line == "bad":
        raise DataError("the data set lacks a character")
    if line == "long":
        raise ConfigError("the line is too long")
    if line == "gone":
        raise CheckpointError("the judge is gone")
    yield f"<{line}"
    if line == "stop":
        raise KeyboardInterrupt
    yield ">"


class Chatted(NamedTuple):
    """What a chat has printed, and how often it was reset."""

    out: str
    err: str
    resets: int


def chat(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: bool = False
) -> Chatted:
    """Return what a chat prints to these lines. typed: as if stdin were a terminal"""
    stdin = io.StringIO(text)
    monkeypatch.setattr(stdin, "isatty", lambda: typed)
    monkeypatch.setattr(sys, "stdin", stdin)
    resets: list[None] = []
    Chat(answer, lambda: resets.append(None), LineInput(), sys.stdout).run()
    return Chatted(*capsys.readouterr(), len(resets))


def test_each_line_has_one_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat("a\n\n b /quit\nc", monkeypatch, capsys) == ("<a>\n<>\n< b /quit>\n<c>\n", "", 0)


def test_commands_are_no_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = chat("a\n/reset\nb\n/help\n /quit \nc\n", monkeypatch, capsys)

    assert shown == ("<a>\n<b>\n", f"{COMMANDS}\n", 1)


def test_a_line_without_an_answer_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = chat("a\nbad\nlong\nb\n", monkeypatch, capsys)

    assert shown.out == "<a>\n<b>\n"
    assert shown.err == "the data set lacks a character\nthe line is too long\n"


def test_other_errors_end_the_chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match="the judge is gone"):
        chat("gone\nb\n", monkeypatch, capsys)


def test_hints_and_prompts_are_shown_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = chat("a\nb\n", monkeypatch, capsys, typed=True)  # stdout is no terminal, so that it has the answers alone

    assert shown == ("<a>\n<b>\n", f"{COMMANDS}\n> > > \n", 0)


def test_ctrl_c_stops_an_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat("stop\nb\n", monkeypatch, capsys, typed=True).out == "<stop\n<b>\n"
    with pytest.raises(KeyboardInterrupt):  # in a pipeline it ends the program
        chat("stop\nb\n", monkeypatch, capsys)


def test_ctrl_c_at_the_prompt_ends_the_chat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(io.StringIO):
        def readline(self, size: int | None = -1) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr(io, "StringIO", Interrupted)
    assert chat("a\n", monkeypatch, capsys, typed=True) == ("", f"{COMMANDS}\n> \n", 0)
