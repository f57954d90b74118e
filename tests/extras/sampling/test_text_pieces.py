"""Text of tokens that come one by one: complete characters, and together the text of all tokens."""

import random

import pytest

from data.package_tokenizers import TiktokenTokenizer
from data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, tokenizer_from_meta
from extras.sampling.text_pieces import text_pieces

TEXT = "naïve — 漢字 🎉 end"


def of_words(*tokens: str) -> Tokenizer:
    return tokenizer_from_meta({"vocab_size": len(tokens), "stoi": {token: n for n, token in enumerate(tokens)}})


def byte_pairs() -> Tokenizer:
    """Return a byte-pair encoding with tokens that begin or end within a character."""
    merges = [b"a\xc3", b"\xe6\xbc", b"\xa2\xe5", b" \xf0\x9f", b"en"]
    ranks = {bytes([n]): n for n in range(256)} | {piece: 256 + n for n, piece in enumerate(merges)}
    return TiktokenTokenizer(dict(name="own", pat_str=r"(?s).+", mergeable_ranks=ranks, special_tokens={}))


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), byte_pairs()])
def test_only_complete_characters_are_yielded(tokenizer: Tokenizer) -> None:
    pieces = list(text_pieces(tokenizer.encode(TEXT), tokenizer.decode))

    assert "".join(pieces) == TEXT
    assert "\ufffd" not in TEXT and len(pieces) > len(TEXT) - 5


def test_a_piece_comes_with_its_last_token() -> None:
    tokens = iter("a€b".encode())
    pieces = text_pieces(tokens, ByteTokenizer().decode)

    assert next(pieces) == "a"
    assert [next(pieces), list(tokens)] == ["€", [ord("b")]]


@pytest.mark.parametrize(
    "tokenizer",
    [
        ByteTokenizer(),
        byte_pairs(),
        CharTokenizer.from_text("ab\n \ufffd"),
        of_words("the", "cat", "\n", ".", "sat"),
        of_words("▁the", "▁cat", "s", "▁", "<0xE6>", "<0xBC>", "<0xA2>", "\n"),
        of_words("un", "##able", "##s", "cat", "[UNK]", "##\n"),
        of_words("Ġcat", "s", "Ġ", "Ċ", "Ã", "¤", "a"),
    ],
)
def test_pieces_of_any_tokens_make_the_text_of_all(tokenizer: Tokenizer) -> None:
    """Also of bytes that are no text, and of ids beyond the vocabulary, which decode to U+FFFD."""
    draw = random.Random(7)
    for _ in range(300):
        ids = draw.choices(range(tokenizer.vocab_size + 1), k=12)

        pieces = list(text_pieces(ids, tokenizer.decode))

        assert "".join(pieces) == tokenizer.decode(ids)
        assert not any(piece.endswith("\ufffd") for piece in pieces[:-1])
