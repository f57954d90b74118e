"""A table's rows: what is kept and what is not, and why."""

from typing import Any

import pytest

from data.rows.encoding import EMPTY, Example
from data.rows.items import KEPT
from data.rows.table import DUPLICATE, Examples

ROWS = [{"text": text} for text in ("ab", "", "abcdef", "ab", "c")]


def encode(row: Any) -> Example | str:
    ids = [ord(letter) for letter in row["text"]]
    return Example(ids[:4], ids[:4], len(ids) > 4) if ids else EMPTY


def test_rows_are_counted_by_what_became_of_them() -> None:
    found = Examples(ROWS, range(5), encode)
    assert found.counts == {KEPT: 4, EMPTY: 1}
    assert (found.numbers, found.lengths, found.tokens) == ([0, 2, 3, 4], [2, 4, 2, 1], 9)
    assert (found.cut, found.duplicates, len(found)) == (1, 1, 4)


def test_duplicates_can_be_left_out() -> None:
    found = Examples(ROWS, range(5), encode, drops_duplicates=True)
    assert found.numbers == [0, 2, 4] and found.counts == {KEPT: 3, EMPTY: 1, DUPLICATE: 1}


@pytest.mark.parametrize("in_memory", [100, 3])
def test_examples_are_kept_or_encoded_again(in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.rows.table.IN_MEMORY", in_memory)
    found = Examples(ROWS, [4, 2], encode)
    monkeypatch.setattr(found, "encode", lambda row: Example([0], [0]))

    expected = [encode(ROWS[4]), encode(ROWS[2])] if in_memory == 100 else [Example([0], [0])] * 2
    assert [found[0], found[1]] == expected
