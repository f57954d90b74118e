"""The display of a text while its masks are filled: on a terminal, in a file, step by step."""

import io
import os
import re

from extras.sampling.step_display import StepDisplay

MASK = 99
PARTS = re.compile(r"\x1b\[(\d*)([A-Za-z])|(.)", re.DOTALL)


def decode(ids: list[int]) -> str:
    assert MASK not in ids
    return "".join("\n" if number == 0 else chr(96 + number) for number in ids)


class Terminal(io.StringIO):
    """Interprets the escape codes that the display writes; `screen` returns the visible rows."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        rows, row, column = [""], 0, 0
        for number, command, char in PARTS.findall(self.getvalue()):
            if command == "A":
                row -= int(number)
                assert row >= 0, "the cursor is above the drawing"
            elif command == "K":
                rows[row] = rows[row][:column]
            elif command == "J":
                rows = [*rows[:row], rows[row][:column]]
            elif char == "\n":
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            elif char == "\r":
                column = 0
            elif char:
                rows[row] = rows[row][:column].ljust(column) + char + rows[row][column + 1 :]
                column += 1
        return rows


def display(stream: io.StringIO, columns: int = 80, lines: int = 24, blocks: bool = False) -> StepDisplay:
    return StepDisplay(stream, decode, MASK, blocks=blocks, size=lambda: os.terminal_size((columns, lines)))


def test_a_terminal_overwrites_the_previous_state() -> None:
    stream = Terminal("")
    shown = display(stream)

    for ids, rows in [
        ([1, MASK, MASK, MASK], ["a███"]),
        ([1, MASK, 0, MASK], ["a█", "█"]),  # a line end is filled in
        ([1, 2, 0, 3], ["ab", "c"]),
        ([1, MASK, MASK, 3], ["a██c"]),  # masked again: the second row is erased
    ]:
        shown.show(ids)
        assert stream.screen() == rows

    shown.clear()
    assert stream.screen() == [""]


def test_the_next_text_begins_below_the_first() -> None:
    stream = Terminal("")
    shown = display(stream)
    for ids in ([MASK, MASK], [1, 0]), ([MASK, MASK], [2, 3]):
        for state in ids:
            shown.show(state)
        shown.clear()
        stream.write("text\n")
        stream.seek(0, io.SEEK_END)

    assert stream.screen() == ["text", "text", ""]


def test_new_tokens_are_green_and_older_ones_are_not() -> None:
    stream = Terminal("")
    shown = display(stream)
    shown.show([1, MASK, MASK])
    assert "\x1b[32m" not in stream.getvalue()

    shown.show([1, 2, MASK])
    assert stream.getvalue().endswith("a\x1b[32mb\x1b[0m█\x1b[J")
    shown.show([1, 2, 3])
    assert stream.getvalue().endswith("ab\x1b[32mc\x1b[0m\x1b[J")


def test_long_lines_are_wrapped_and_tall_texts_cut() -> None:
    stream = Terminal("")
    shown = display(stream, columns=5, lines=4)

    for _ in range(3):
        shown.show([MASK] * 30)
        assert stream.screen() == ["████"] * 3
    shown.clear()
    assert stream.screen() == [""]


def test_wide_and_control_characters_do_not_shift_the_rows() -> None:
    stream = Terminal("")
    shown = StepDisplay(stream, lambda ids: "".join(map(chr, ids)), MASK, size=lambda: os.terminal_size((5, 24)))

    shown.show([0x4E2D, 0x4E2D, 0x4E2D, 7, 65])

    assert stream.screen() == ["中中", "中\ufffdA"]


def test_nothing_is_written_to_a_file_without_blocks() -> None:
    stream = io.StringIO()
    shown = display(stream)
    shown.show([MASK])
    shown.show([1])
    shown.clear()

    assert stream.getvalue() == ""


def test_blocks_are_written_one_below_the_other() -> None:
    stream = io.StringIO()
    shown = display(stream, blocks=True)
    for _ in range(2):  # texts
        shown.show([1, MASK, MASK])
        shown.show([1, 2, 0])
        shown.clear()

    assert stream.getvalue() == "step 0, 2 masked\na██\nstep 1, 0 masked\nab\n\n" * 2


def test_blocks_are_coloured_on_a_terminal() -> None:
    stream = Terminal("")
    shown = display(stream, blocks=True)
    shown.show([1, MASK])
    shown.show([1, 2])
    shown.clear()

    assert stream.getvalue() == "step 0, 1 masked\na█\nstep 1, 0 masked\na\x1b[32mb\x1b[0m\n"
