"""What is said of the rows before the first update."""

from collections.abc import Sequence

from data.rows.encoding import EMPTY, IGNORED, Example
from data.rows.items import KEPT
from data.rows.report import report_rows, show_examples


class Letters:
    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


def test_a_line_says_what_became_of_the_rows() -> None:
    assert report_rows("train", {KEPT: 1200, EMPTY: 3, "too odd": 2}, 7, 4, 5000, 90) == (
        "data: train: 1,200 of 1,205 rows, 5,000 tokens in 90 packs, 2 dropped too odd, 3 dropped without text, "
        "7 cut at the length limit, 4 the same as an earlier row"
    )
    assert report_rows("val", {KEPT: 2}, 0, 0, 9) == "data: val: 2 of 2 rows, 9 tokens"


def test_the_first_examples_show_what_is_learnt() -> None:
    ids = [ord(letter) for letter in "ab:cd"]
    pair = Example(ids, [IGNORED] * 3 + ids[3:])
    encoder = Example(ids[:3], ids[3:])
    text = Example(ids, ids)
    long = Example([97] * 200, [97] * 200)
    tokens = Letters()
    assert show_examples([pair, text, pair], tokens) == ["data: example 1: 'ab:' -> 'cd'", "data: example 2: 'ab:cd'"]  # type: ignore[arg-type]
    assert show_examples([encoder], tokens) == ["data: example 1: 'ab:' -> 'cd'"]  # type: ignore[arg-type]
    assert show_examples([long], tokens) == [f"data: example 1: {'a' * 160!r}..."]  # type: ignore[arg-type]
