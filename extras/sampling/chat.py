"""Answering lines that a user types, one after the other."""

import sys
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from typing import TextIO

from core.errors import ConfigError, DataError
from extras.sampling.line_input import LineInput

COMMANDS = "/reset forgets the text so far, /quit or Ctrl-D ends, /help prints this; Ctrl-C stops a reply"


class Chat:
    """Answers lines until the input ends; answers go to `out`, everything else goes to stderr.

    A line that cannot be answered is one message. On a terminal, Ctrl-C stops an answer, and ends the chat at the
    prompt.

    answer: `answer(line) -> pieces of the answer`; raises ConfigError or DataError for a line without an answer
    reset:  forgets what the answers to later lines would depend on
    """

    def __init__(
        self, answer: Callable[[str], Iterable[str]], reset: Callable[[], None], lines: LineInput, out: TextIO | None
    ) -> None:
        self.answer = answer
        self.reset = reset
        self.lines = lines
        self.out = out

    def run(self) -> None:
        """Answer all lines."""
        with closing(self.lines):
            if self.lines.is_terminal:
                _show(COMMANDS)
            while (line := self.lines.read()) is not None:
                command = line.strip()
                if command == "/quit":
                    return
                if command == "/help":
                    _show(COMMANDS)
                elif command == "/reset":
                    self.reset()
                else:
                    self._print_answer(line)
            if self.lines.is_terminal:
                _show("")  # what the shell prints next begins on a line of its own

    def _print_answer(self, line: str) -> None:
        try:
            for piece in self.answer(line):
                print(piece, end="", file=self.out, flush=True)
        except (ConfigError, DataError) as error:
            _show(str(error))
            return
        except KeyboardInterrupt:
            if not self.lines.is_terminal:
                raise
        print(file=self.out, flush=True)


def _show(text: str) -> None:
    with suppress(OSError):  # the terminal may be closed
        print(text, file=sys.stderr, flush=True)
