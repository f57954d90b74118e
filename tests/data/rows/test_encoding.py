"""Rows as ids and labels: what is learnt decodes to the answer exactly, and its end token is learnt."""

from collections.abc import Sequence
from typing import Any

import pytest

from data.rows.encoding import (
    BROKEN,
    CUT_OFF,
    EMPTY,
    IGNORED,
    SEAM,
    Example,
    Marks,
    PairEncoder,
    SourceTargetEncoder,
    TextEncoder,
    learnt,
)

MARKS = Marks([1], [2])


class Pieces:
    """A tokenizer of known pieces, the longest first; `space` puts one in front of each text, as some tokenizers do."""

    def __init__(self, *pieces: str, space: bool = False) -> None:
        self.pieces, self.space = [*pieces, *"abcdefgh :=0123456789"], space

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        found, place = [], 0
        while place < len(text):
            piece = max((piece for piece in self.pieces if text.startswith(piece, place)), key=len)
            found.append((self.pieces.index(piece) + 10, place, place + len(piece)))
            place += len(piece)
        return found

    def encode_ordinary(self, text: str) -> list[int]:
        ids = [number for number, _, _ in self.spans(text)]
        return [9, *ids] if self.space and ids else ids

    def decode(self, ids: Sequence[int]) -> str:
        texts = [" " if number == 9 else self.pieces[number - 10] for number in ids if number > 2]
        return "".join(texts)[self.space :]


def labelled(example: Example) -> list[int]:
    return [label for label in example.labels if label != IGNORED]


def test_every_token_of_a_text_is_learnt() -> None:
    encode = TextEncoder(Pieces(), MARKS, "text", limit=6)
    found = encode({"text": "abc"})
    assert isinstance(found, Example) and found.input_ids == found.labels == [1, 10, 11, 12, 2] and not found.is_cut
    long = encode({"text": "abcdefgh"})
    assert isinstance(long, Example) and len(long.input_ids) == 6 and long.is_cut and long.labels[-1] != 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, EMPTY),
        ({"text": None}, EMPTY),
        ({"text": " \n"}, EMPTY),
        ({"text": True}, BROKEN),
        ({"text": float("nan")}, BROKEN),
        ({"text": ["a"]}, BROKEN),
    ],
)
def test_a_row_without_text_says_why(row: dict[str, Any], reason: str) -> None:
    assert TextEncoder(Pieces(), MARKS, "text", 9)(row) == reason
    assert PairEncoder(Pieces(), MARKS, "prompt", "text", 9)({"prompt": "a", **row}) == reason
    assert SourceTargetEncoder(Pieces(), MARKS, "prompt", "text", 9, 9)({"prompt": "a", **row}) == reason


def pair(tokens: Pieces, prompt: str, response: str, limit: int = 20, prompt_limit: int | None = None) -> Any:
    return PairEncoder(tokens, MARKS, "q", "a", limit, prompt_limit)({"q": prompt, "a": response})


def test_the_response_and_its_end_token_are_learnt() -> None:
    found = pair(Pieces(), "ab:", "cd")
    assert found.input_ids == [1, 10, 11, 19, 12, 13, 2] and found.labels == [IGNORED] * 4 + [12, 13, 2]
    assert learnt(found, shifts=True) == 3
    assert labelled(pair(Pieces(), "", "cd")) == [12, 13, 2]


def test_numbers_are_texts_and_a_missing_prompt_is_an_empty_one() -> None:
    encode = PairEncoder(Pieces(), MARKS, "q", "a", 20)
    assert encode({"q": "1:", "a": 42}) == encode({"q": "1:", "a": "42"})
    assert encode({"q": None, "a": "cd"}) == encode({"q": "", "a": "cd"})


def test_a_piece_across_the_seam_is_divided() -> None:
    """A tokenizer would merge `:c` in the whole text; the model that answers sees the prompt encoded alone."""
    tokens = Pieces(":c")
    assert tokens.encode_ordinary("ab:cd") == [11, 12, 10, 14]
    assert tokens.decode(labelled(pair(tokens, "ab:", "cd"))) == "cd"


def test_a_tokenizer_that_adds_spaces_encodes_both_together() -> None:
    tokens = Pieces(space=True)
    assert tokens.decode([9, *labelled(pair(tokens, "ab:", "cd"))]) == "cd"
    assert pair(Pieces(":c", space=True), "ab:", "cd") == SEAM


def test_length_limits_keep_what_can_be_learnt() -> None:
    cut = pair(Pieces(), "ab:", "cdef", limit=6)
    assert cut.is_cut and labelled(cut) == [12, 13] and len(cut.input_ids) == 6  # no end token that is not there
    assert pair(Pieces(), "abcdefgh", "cd", limit=6) == CUT_OFF
    short = pair(Pieces(), "abcdefgh", "cd", limit=9, prompt_limit=4)
    assert short.is_cut and short.input_ids == [1, 10, 11, 12, 12, 13, 2]


def test_a_model_with_an_encoder_reads_the_prompt_and_learns_the_response() -> None:
    encode = SourceTargetEncoder(Pieces(), Marks([], [2]), "q", "a", 5, 3)
    found = encode({"q": "ab", "a": "cd"})
    assert found == Example([10, 11, 2], [12, 13, 2]) and learnt(found, shifts=False) == 3
    cut = encode({"q": "abcdefgh", "a": "cdef"})
    assert cut == Example([10, 11, 12, 13, 2], [12, 13, 14], True)
