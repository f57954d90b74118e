"""Whether two vocabularies mean the same by their ids."""

from pathlib import Path
from typing import Any

import pytest
import torch

from data.token_meaning import difference, sizes_differ, storable


def characters(text: str) -> dict[str, Any]:
    itos = dict(enumerate(text))
    return {"vocab_size": len(text), "itos": itos, "stoi": {char: number for number, char in itos.items()}}


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (characters("abc"), characters("abc")),
        (characters("abc"), {"itos": ["a", "b", "c"], "vocab_size": 3}),
        (characters("abc"), {"stoi": {"c": 2, "b": 1, "a": 0}, "vocab_size": 3}),
        (characters("abc"), {"vocab_size": 3}),  # only a size
        ({}, characters("abc")),
        (None, None),
        (None, {"vocab_size": 50257, "tokenizer": "gpt2"}),
        ({**characters("abc"), "tokenizer": "byte"}, {"vocab_size": 256, "tokenizer": "byte"}),
    ],
)
def test_equal_meanings_and_unknown_ones_do_not_differ(then: Any, now: Any) -> None:
    assert difference(then, now) == difference(now, then) == ""


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        (characters("abc"), characters("abcd"), "3 tokens there, 4 here"),
        (characters("abc"), characters("xbc"), "id 0 is 'a' there and 'x' here"),
        (characters("abc"), characters("xyz"), "id 0 is 'a' there and 'x' here, 2 more ids differ"),
        (characters("abc"), characters("xbcd"), "3 tokens there, 4 here, id 0 is 'a' there and 'x' here"),
        (characters("abc"), None, "3 tokens of its own there, the tokenizer gpt2 here"),
        (None, {"tokenizer": "byte"}, "the tokenizer gpt2 there, the tokenizer byte here"),
        ({"itos": {0: "a", 1: "b"}}, {"itos": {0: "a", 2: "b"}}, "other ids"),
    ],
)
def test_a_difference_is_described_with_both_sides(then: Any, now: Any, expected: str) -> None:
    assert difference(then, now) == expected


def test_what_is_stored_can_be_read_by_any_program(tmp_path: Path) -> None:
    plain = {**characters("ab"), "model": b"\xff\x00", "list": [1, (2.5, None)]}
    meta = {**plain, "set": {"a"}, "deep": [{"a": frozenset()}]}
    torch.save({"tokenizer": storable(meta)}, tmp_path / "x.pt")

    read = torch.load(tmp_path / "x.pt", weights_only=True)["tokenizer"]
    assert read == plain and storable(None) is None


@pytest.mark.parametrize(
    ("model", "data", "differ"),
    [(65, 65, False), (128, 65, False), (72, 65, False), (50304, 50257, False)]
    + [(112, 65, True), (10, 34, True), (100, 65, True)],
)
def test_sizes_may_differ_by_rounding_up_only(model: int, data: int, differ: bool) -> None:
    assert sizes_differ(model, data) is differ
