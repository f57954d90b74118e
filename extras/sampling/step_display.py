"""Showing how a text is filled, step by step."""

import os
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from typing import TextIO

from extras.sampling.painted_text import GREEN, Decode, paint, pieces

BLOCK = "\u2588"  # stands for a mask
UNPRINTABLE = "\ufffd"


class StepDisplay:
    """Shows a text whose masks are being filled: masks as blocks, new tokens in green where the stream is a terminal.

    On a terminal every step is drawn over the one before, and `clear` takes the drawing away. `blocks` writes the steps
    one below the other instead, anywhere. A stream that is no terminal gets nothing without it.

    decode: token ids to text; mask_token_id: the mask's, which it is not asked to decode; size: of the terminal
    """

    def __init__(
        self,
        stream: TextIO,
        decode: Decode,
        mask_token_id: int,
        *,
        blocks: bool = False,
        size: Callable[[], os.terminal_size] = shutil.get_terminal_size,
    ) -> None:
        self.stream = stream
        self.decode = decode
        self.mask_token_id = mask_token_id
        self.blocks = blocks
        self.size = size
        self.is_terminal = stream.isatty()
        self.steps = 0  # shown so far, of this text
        self.before: list[int] = []
        self.height = 0  # rows on the screen

    def show(self, ids: Sequence[int]) -> None:
        """Show the text as it is now; the first call of a text, before anything is filled, is step 0."""
        ids = list(ids)
        if self.blocks:
            masks = ids.count(self.mask_token_id)
            text = "".join(paint(text, colour) for text, colour in self._pieces(ids))
            self._write(f"step {self.steps}, {masks} masked\n{text}\n")
        elif self.is_terminal:
            columns, lines = self.size()
            rows = _rows(self._pieces(ids), max(columns - 1, 2))[: max(lines - 1, 1)]  # what has scrolled off stays
            self._write(self._back() + "\x1b[K\n".join(rows) + "\x1b[J")
            self.height = len(rows)
        self.steps, self.before = self.steps + 1, ids

    def clear(self) -> None:
        """Take the drawing away, and be ready for another text."""
        if self.height:
            self._write(self._back() + "\x1b[J")
        self.steps, self.before, self.height = 0, [], 0

    def _pieces(self, ids: list[int]) -> list[tuple[str, str]]:
        told = zip(self.before or ids, ids, strict=True)
        mask = self.mask_token_id
        kinds = ["mask" if token == mask else "old" if token == before else "new" for before, token in told]
        colours = {"new": GREEN} if self.is_terminal else {}
        return [(text, colours.get(kind, "")) for text, kind in pieces(ids, kinds, self._decode)]

    def _decode(self, ids: list[int]) -> str:
        return BLOCK * len(ids) if ids[0] == self.mask_token_id else self.decode(ids)

    def _back(self) -> str:
        """Return what moves the cursor to the drawing's upper left corner."""
        up = f"\x1b[{self.height - 1}A" if self.height > 1 else ""
        return up + "\r" if self.height else ""

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def _rows(painted: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Break a text into rows of a terminal, so that their number is known."""
    rows, column = [""], 0
    for text, colour in painted:
        for char in text:
            if char == "\n":
                rows.append("")
                column = 0
                continue
            char = char if char.isprintable() else UNPRINTABLE
            columns = 2 if unicodedata.east_asian_width(char) in "WF" else 1
            if column + columns > width:
                rows.append("")
                column = 0
            rows[-1] += paint(char, colour)
            column += columns
    return rows
