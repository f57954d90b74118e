"""The lines that a user types on a terminal, or that come from a pipe or a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TextIO

PROMPT = "> "
HISTORY_LINES = 1000


def history_path(environment: Mapping[str, str]) -> Path | None:
    """Return where the history of typed lines is kept: under $XDG_STATE_HOME; None if there is no home folder."""
    with suppress(RuntimeError):
        given = Path(environment.get("XDG_STATE_HOME", ""))
        folder = given if given.is_absolute() else Path.home() / ".local" / "state"
        return folder / "coregpt" / "history"
    return None


class LineInput:
    """Reads lines from stdin. On a terminal each has a prompt, line editing and a history, where Python has `readline`.

    history: file in which the history is kept from one use to the next; one that cannot be read or written is ignored
    """

    def __init__(self, history: Path | None = None) -> None:
        self.is_terminal = _is_terminal(sys.stdin)
        self.history = history
        self.readline = _load_readline(history) if self.is_terminal and _is_terminal(sys.stdout) else None
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")  # for text that is not in the encoding of stdin

    def read(self) -> str | None:
        """Return the next line without its line end; None at the end of input, and on Ctrl-C at an empty prompt.

        Ctrl-C discards a line that is not empty. Where the input is no terminal, Ctrl-C is KeyboardInterrupt.
        """
        if not self.is_terminal:
            line = sys.stdin.readline() if sys.stdin else ""
            return line.removesuffix("\n").removeprefix("\ufeff") if line else None
        while True:
            try:
                return self._ask()
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not (self.readline and self.readline.get_line_buffer()):
                    return None
                print(file=sys.stderr)

    def close(self) -> None:
        """Write the history."""
        if self.readline and self.history:
            with suppress(OSError):
                self.history.parent.mkdir(parents=True, exist_ok=True)
                self.readline.write_history_file(self.history)

    def _ask(self) -> str:
        if _is_terminal(sys.stdout):
            return input(PROMPT)
        print(PROMPT, end="", file=sys.stderr, flush=True)  # `input` would write it to stdout
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _load_readline(history: Path | None) -> ModuleType | None:
    """Return Python's module `readline`, with which `input` has line editing, with the history of earlier uses."""
    try:
        import readline
    except ImportError:  # on Windows, whose terminal edits lines itself
        return None
    readline.set_history_length(HISTORY_LINES)
    with suppress(OSError, ValueError):
        if history and os.path.isfile(history):
            readline.read_history_file(history)
    return readline
