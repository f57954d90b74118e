"""Arrays of ids: those of `encode_ordinary`, in order, from several threads."""

import numpy as np
import pytest

from core.errors import DataError
from data.package_tokenizers import TiktokenTokenizer
from data.preparation.encoding import Piece, array_encoder, encode_in_order, end_id
from data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from tests.data.preparation.small_encoding import arguments

TEXT = "the é漢🙂 <|endoftext|>\n\x00 12"
ALL: list[Tokenizer] = [TiktokenTokenizer(arguments()), ByteTokenizer(), CharTokenizer.from_text(TEXT)]


@pytest.mark.parametrize("tokenizer", ALL, ids=lambda tokenizer: type(tokenizer).__name__)
def test_arrays_hold_the_ids_of_encode_ordinary(tokenizer: Tokenizer) -> None:
    encode = array_encoder(tokenizer)

    for text in (TEXT, TEXT[::-1], ""):
        assert encode(text).tolist() == tokenizer.encode_ordinary(text)


@pytest.mark.parametrize("tokenizer", ALL[:2], ids=lambda tokenizer: type(tokenizer).__name__)
def test_half_a_surrogate_pair_is_replaced(tokenizer: Tokenizer) -> None:
    assert array_encoder(tokenizer)("a\ud800b").tolist() == tokenizer.encode_ordinary("a\ud800b")


def test_an_old_tiktoken_has_lists_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TiktokenTokenizer(arguments())
    ids = tokenizer.encode_ordinary(TEXT)
    monkeypatch.delattr("tiktoken.Encoding.encode_to_numpy")

    assert array_encoder(tokenizer)(TEXT).tolist() == ids


@pytest.mark.parametrize("text", ["abz", "ab\U0010ffff", "\x00"])
def test_an_unknown_character_is_named(text: str) -> None:
    with pytest.raises(DataError, match=r"the data set's 2 characters lack '.*'"):
        array_encoder(CharTokenizer.from_text("ab"))(text)


@pytest.mark.parametrize("workers", [1, 3])
def test_pieces_stay_in_order(workers: int) -> None:
    given = [Piece(number, ["ab" * (50 - number), str(number)]) for number in range(50)] + [Piece(7, [])]
    found = list(encode_in_order(iter(given), ByteTokenizer(), np.dtype(np.uint16), workers, end=300))

    assert [units for units, _ in found] == [*range(50), 7]
    for number, (_, ids) in enumerate(found[:-1]):
        assert ids.dtype == np.uint16
        assert ids.tolist() == [*b"ab" * (50 - number), 300, *str(number).encode(), 300]
    assert found[-1][1].size == 0


def test_few_pieces_are_read_ahead() -> None:
    read = []

    def given() -> object:
        for number in range(100):
            read.append(number)
            yield Piece(1, ["a"])

    next(encode_in_order(given(), ByteTokenizer(), np.dtype(np.uint16), 2))  # type: ignore[arg-type]

    assert len(read) <= 4


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    with pytest.raises(DataError, match="lack 'z'"):
        list(encode_in_order([Piece(1, ["z"])], CharTokenizer.from_text("ab"), np.dtype(np.uint16), 2))


def test_only_tiktokens_encodings_end_a_text() -> None:
    assert [end_id(tokenizer) for tokenizer in ALL] == [ALL[0].vocab_size - 1, None, None]
