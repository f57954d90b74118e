"""Display of a text while its masks are filled, step by step."""

import os
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from typing import TextIO

from extras.sampling.painted_text import GREEN, Decode, paint, pieces

BLOCK = "\u2588"  # stands for a mask
UNPRINTABLE = "\ufffd"


class StepDisplay:
    """Shows the steps in which the masks of a text are filled; masks are shown as block characters.

    On a terminal each step is drawn over the previous step, new tokens in green, and `clear` erases the drawing. On any
    other stream nothing is written. With `blocks` the steps are written one below the other, on every stream.

    decode: token ids to text; never called with `mask_token_id`
    size:   returns the size of the terminal
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
        self.steps = 0  # steps of this text shown so far
        self.previous_ids: list[int] = []
        self.height = 0  # rows drawn on the terminal

    def show(self, ids: Sequence[int]) -> None:
        """Show the current ids of the text; the first call, with all masks, is step 0."""
        ids = list(ids)
        if self.blocks:
            masks = ids.count(self.mask_token_id)
            text = "".join(paint(text, colour) for text, colour in self._pieces(ids))
            self._write(f"step {self.steps}, {masks} masked\n{text}\n")
        elif self.is_terminal:
            columns, lines = self.size()
            rows = _rows(self._pieces(ids), max(columns - 1, 2))
            rows = rows[: max(lines - 1, 1)]  # rows that scroll off the terminal could not be erased
            self._write(self._cursor_to_start() + "\x1b[K\n".join(rows) + "\x1b[J")
            self.height = len(rows)
        self.steps, self.previous_ids = self.steps + 1, ids

    def clear(self) -> None:
        """Erase the drawing; the next call of `show` begins another text."""
        if self.height:
            self._write(self._cursor_to_start() + "\x1b[J")
        self.steps, self.previous_ids, self.height = 0, [], 0

    def _pieces(self, ids: list[int]) -> list[tuple[str, str]]:
        """Return (text, colour) of the pieces of a text."""
        mask, previous_ids = self.mask_token_id, self.previous_ids or ids
        kinds = [
            "mask" if token == mask else "old" if token == previous else "new"
            for previous, token in zip(previous_ids, ids, strict=True)
        ]
        colours = {"new": GREEN} if self.is_terminal else {}
        return [(text, colours.get(kind, "")) for text, kind in pieces(ids, kinds, self._decode)]

    def _decode(self, ids: list[int]) -> str:
        return BLOCK * len(ids) if ids[0] == self.mask_token_id else self.decode(ids)

    def _cursor_to_start(self) -> str:
        """Return the escape code that moves the cursor to the upper left corner of the drawing."""
        up = f"\x1b[{self.height - 1}A" if self.height > 1 else ""
        return up + "\r" if self.height else ""

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def _rows(painted: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Return a text as rows of at most `width` columns, so that the number of rows is known."""
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
