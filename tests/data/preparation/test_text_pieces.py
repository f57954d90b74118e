"""Text in pieces: the tokens of the whole text wherever it is cut, and the characters of `read_text`."""

import itertools
import logging
import os
import random
import sys
import unicodedata
from pathlib import Path

import pytest

from core.errors import DataError
from data.corpus import read_text
from data.package_tokenizers import TiktokenTokenizer
from data.preparation import text_pieces
from data.preparation.byte_pairs import PATTERN
from data.preparation.text_pieces import CUT, PUNCTUATION, FileTexts, pieces
from tests.data.preparation.small_encoding import arguments

SPACES = [" ", "  ", "   ", "\n", "\n\n", "\t", " \n", "\n ", "\r", "\x0b", "\x1c", "\x85", "\u00a0", "\u2003"]
WORDS = ["the", "The", "'s", "'ll", "'", "''", "'S", "\u2019s", "é", "e\u0301", "漢字", "。", "\uff0c", "🙂", "12"]
WORDS += [",", "...", "!", "!'", "s'", "<|endoftext|>", "\x00", "\u200b", "\u0378", "a", "(", "-", "\ufffd", "½"]
WORDS += ["\u0663", "_"]
PATTERNS = {"tiktoken's": arguments()["pat_str"], "ours": PATTERN}


def texts(count: int) -> list[str]:
    draw = random.Random(7)
    made = ["".join(draw.choices(SPACES + WORDS, k=draw.randint(2, 30))) for _ in range(count)]
    return [*made, *("".join(pair) for pair in itertools.product(SPACES + WORDS, repeat=2))]


@pytest.fixture(params=PATTERNS)
def tokenizer(request: pytest.FixtureRequest) -> TiktokenTokenizer:
    return TiktokenTokenizer({**arguments(), "pat_str": PATTERNS[request.param]})


def test_no_cut_changes_a_token(tokenizer: TiktokenTokenizer) -> None:
    """Every place where a text may be cut, also next to each kind of white space and punctuation."""
    encode, cuts = tokenizer.encode_ordinary, 0
    for text in texts(4000):
        whole = encode(text)
        for place in (match.start() for match in CUT.finditer(text)):
            cuts += 1
            assert encode(text[:place]) + encode(text[place:]) == whole, (text, place)

    assert cuts > 10_000


def test_pieces_of_any_size_have_the_tokens_of_the_text(tokenizer: TiktokenTokenizer) -> None:
    draw = random.Random(3)
    for text in texts(200):
        for size in (1, 2, 5, 40):
            step = draw.randint(1, 9)
            blocks = [text[begin : begin + step] for begin in range(0, len(text), step)]
            found = list(pieces(blocks, size))
            assert "".join(found) == text and all(found)
            assert [number for piece in found for number in tokenizer.encode_ordinary(piece)] == (
                tokenizer.encode_ordinary(text)
            )


def test_each_white_space_of_the_pattern_is_one_of_pythons() -> None:
    """Then what Python takes for another character before a cut is one for the pattern, too."""
    import regex

    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if regex.match(r"\p{White_Space}", character):
            assert character.isspace()
        elif character.isspace():
            assert character in "\x1c\x1d\x1e\x1f"


def test_characters_around_a_cut_are_of_the_categories_that_it_needs() -> None:
    import re

    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if re.match(f"[{PUNCTUATION}]", chr(code)):
            assert category[0] in "PS" and chr(code) != "'"
        if re.match(r"[^\W_]", chr(code)):
            assert category[0] in "LN"


def test_pieces_are_about_as_long_as_asked() -> None:
    text = "word and word. " * 20_000
    found = list(pieces([text], 1000))

    assert "".join(found) == text
    assert {len(piece) > 900 and len(piece) <= 1000 for piece in found[:-1]} == {True}


def test_a_text_without_a_place_to_cut_is_refused_only_if_it_is_long() -> None:
    assert list(pieces(["a" * 50, "a" * 50], 10, 100)) == ["a" * 100]
    with pytest.raises(DataError, match="102 characters without a space, .* after ' aaaaaaaaaaaaaaaaaaa', wanted"):
        list(pieces(["b ", "a" * 50, "a" * 51], 2, 100))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("size", [1, 3, 2**16])
def test_files_have_the_characters_of_read_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, size: int
) -> None:
    monkeypatch.setattr(text_pieces, "BLOCK_BYTES", size)
    text = ("\ufeff" if encoding.endswith("be") else "") + "é\r\n\r漢🙂\n\r\nx\ufeffy\r"
    (tmp_path / "a").write_bytes(text.encode(encoding))
    (tmp_path / "b").write_text("end", encoding="utf-8-sig")
    source = FileTexts([tmp_path / "a", tmp_path / "b"])
    whole = read_text(tmp_path / "a") + "end"

    assert "".join(source.texts()) == whole == "é\n\n漢🙂\n\nxy\nend"
    for begin, end in itertools.combinations(range(len(whole) + 1), 2):
        assert "".join(source.read(begin, end)) == whole[begin:end]
    with pytest.raises(DataError, match="ended after 13 of 99 characters"):
        list(source.read(0, 99))


def test_dropped_marks_are_counted_as_read_text_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a").write_text("\ufeffa\ufeffb\ufeff", encoding="utf-8")
    caplog.set_level(logging.WARNING)
    list(FileTexts([tmp_path / "a"]).texts())
    read_text(tmp_path / "a")

    assert caplog.messages[0] == caplog.messages[1] and "2 byte-order marks" in caplog.messages[0]


@pytest.mark.parametrize("content", [b"abc\xff", b"ab\xe6\xbc", b"\xff\xfea", b"a\0b\0\0\0", b"\xff\xfea\0\0\xd8b\0"])
def test_a_file_that_is_no_text_gets_read_texts_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataError) as wanted:
        read_text(path)
    for size in (1, 2, 100):
        monkeypatch.setattr(text_pieces, "BLOCK_BYTES", size)
        with pytest.raises(DataError) as found:
            list(FileTexts([path]).texts())
        assert str(found.value) == str(wanted.value)


def test_what_cannot_be_read_twice_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a named pipe, wanted a file that can be read twice"):
        FileTexts([tmp_path / "pipe"]).fingerprint()
    with pytest.raises(DataError, match="cannot read .*missing: No such file"):
        FileTexts([tmp_path / "missing"]).fingerprint()
    with pytest.raises(DataError, match="cannot read .*missing: No such file"):
        list(FileTexts([tmp_path / "missing"]).texts())
