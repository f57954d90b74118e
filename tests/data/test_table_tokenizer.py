"""The tokenizer of tables: the longest known token, and the marks of other packages' tokens."""

from collections.abc import Sequence

import pytest

from core.errors import DataError
from data.meta_contents import Tables, Token
from data.table_tokenizer import TableTokenizer


def table(tokens: Sequence[Token], name: str = "") -> TableTokenizer:
    return TableTokenizer(Tables({token: i for i, token in enumerate(tokens)}, dict(enumerate(tokens))), name)


def test_the_longest_known_token_is_taken() -> None:
    tokens = table(["a", "b", " ", "ab", "abab", "é"])

    assert tokens.encode("ababab aé") == [4, 3, 2, 0, 5]
    assert tokens.decode([4, 3, 2, 0, 5]) == "ababab aé"
    assert tokens.encode_ordinary("") == [] and tokens.vocab_size == 6


def test_missing_characters_are_named() -> None:
    with pytest.raises(DataError, match=r"3 tokens lack '\\n', 'c', 'é': remove them from the text"):
        table(["a", " ", "ab"]).encode("ab c\né c")


def test_ids_without_a_token_decode_to_the_replacement_character() -> None:
    assert table(["a", "bc", " "]).decode([1, 3, -1, 0]) == "bc\ufffd\ufffda"


def test_words_have_spaces_between_them() -> None:
    words = table(["the", "cat", ",", "a", "\n"])

    assert words.encode("the  cat, a\ncat") == [0, 1, 2, 3, 4, 1]
    assert words.decode([0, 1, 2, 3, 4, 1]) == "the cat , a\ncat"
    assert table(["the", "cat"]).encode("the\ncat\n") == [0, 1]
    with pytest.raises(DataError, match="5 tokens lack 'cats,', 'dog': remove"):
        words.encode("the cats, the dog")


def test_an_unknown_word_is_one_unknown_token() -> None:
    assert table(["the", "<unk>"]).encode("the cats the") == [0, 1, 0]
    assert table(["a", "b", "ab", "[UNK]"]).encode("abxyb") == [2, 3, 3, 1]


@pytest.mark.parametrize("tokens", [["A", "C", "AC", "<pad>"], ["[PAD]", "A", "C", "<|end|>"]])
def test_merged_characters_have_no_spaces_between_them(tokens: list[str]) -> None:
    bases = table(tokens)

    assert bases.decode(bases.encode("CACA")) == "CACA"


@pytest.mark.parametrize("character", ["e\u0301", "कि", "🇩🇪", "👨\u200d👩\u200d👧", "👍🏽", "❤\ufe0f"])
def test_a_character_of_several_code_points_is_no_word(character: str) -> None:
    characters = table(["a", "b", character])

    assert characters.encode(f"ab{character}a") == [0, 1, 2, 0]
    assert characters.decode([0, 1, 2, 0]) == f"ab{character}a"
    assert table(["a", "cat", character]).decode([0, 1, 2]) == f"a cat {character}"


def test_numbers_of_several_digits_are_words_if_the_name_says_so() -> None:
    numbers = table([str(number) for number in range(20)], "numeric_range")

    assert numbers.encode("12\n7") == [12, 7] and numbers.decode([12, 7]) == "12 7"


def test_pieces_of_sentencepiece() -> None:
    """The ids are those of sentencepiece 0.2.3 for this vocabulary, with line breaks and spaces as symbols."""
    pieces = table(["<unk>", "<s>", "\n", " ", "▁t", "he", "▁the", "▁cat", "▁", "t", "h", "e"], "sentencepiece")

    assert pieces.encode("the  cat ") == [6, 7]
    assert pieces.encode("\nthe") == [8, 2, 9, 5]
    assert pieces.decode([8, 2, 9, 5, 7]) == "\nthe cat"
    assert pieces.encode("x") == [8, 0]


def test_pieces_of_sentencepiece_are_known_by_their_mark() -> None:
    pieces = table(["▁a", "<0xC3>", "<0xA9>", "▁", "b"])

    assert pieces.encode("a\né") == [0, 3, 1, 2] and pieces.decode([0, 3, 1, 2]) == "a é"
    assert table(["▁a", "b"]).encode("b a") == [1, 0]  # there is no token for a space alone


def test_pieces_of_wordpiece() -> None:
    """The ids are those of BERT's tokenizer for this vocabulary."""
    pieces = table(["[UNK]", "the", "cat", "##s", ",", "un", "##known"])

    assert pieces.encode("The cats, unknown dog") == [1, 2, 3, 4, 5, 6, 0]
    assert pieces.decode([1, 2, 3, 4, 0]) == "the cats , [UNK]"
    assert table(["[UNK]", "The", "##s"]).encode("The the") == [1, 0]


def test_pieces_of_byte_level_bpe() -> None:
    pieces = table(["Ċ", "Ġ", "Ġthe", "a", "Ã", "©", "<|endoftext|>"])

    assert pieces.encode(" the\naé") == [2, 0, 3, 4, 5]
    assert pieces.decode([2, 0, 3, 4, 5, 6]) == " the\naé<|endoftext|>"


def test_bytes_stand_in_for_characters_without_a_token() -> None:
    both = table(["a", "é", *(bytes([byte]) for byte in range(256))])

    assert both.encode("aé√") == [0, 1, 2 + 0xE2, 2 + 0x88, 2 + 0x9A]
    assert both.decode([0, 1, 2 + 0xE2, 2 + 0x88, 2 + 0x9A, 2 + 0xE2]) == "aé√\ufffd"


def test_tables_of_different_form_are_each_read_by_their_own() -> None:
    """Tokens of Hugging Face in one, and their text in the other."""
    tokens = TableTokenizer(Tables({"Ġa": 0, "b": 1, "Ġ": 2}, {0: " a", 1: "b", 2: " "}))

    assert tokens.encode("b a") == [1, 0] and tokens.decode([1, 0]) == "b a"


def test_a_long_text_takes_no_longer_than_its_length() -> None:
    tokens = table(["ab", "a" * 200, " "])

    assert tokens.encode("ab" * 20_000) == [0] * 20_000


def test_meta_leads_back_to_the_tables() -> None:
    assert table(["the"], "words").meta() == {
        "vocab_size": 1,
        "itos": {0: "the"},
        "stoi": {"the": 0},
        "tokenizer": "words",
    }
