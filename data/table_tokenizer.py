"""A tokenizer for tables of tokens that are longer than one character: words, parts of words, or bytes."""

import itertools
import re
import unicodedata
from collections.abc import Collection, Iterable
from typing import Any, ClassVar

from core.errors import DataError
from data.meta_contents import Tables, Token

UNKNOWN = "\ufffd".encode()
UNKNOWN_TOKENS = ("<unk>", "[UNK]", "<UNK>", "<|unk|>")
SPECIAL = re.compile(r"<[^<>]+>|\[[A-Za-z_]+\]")  # such as <s>, <|endoftext|> and [PAD]
JOINER = "\u200d"  # between the parts of an emoji
SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTED]
# the characters that byte-level BPE writes for bytes: those of Latin-1, and others for spaces and control characters
BYTE_OF = {chr(byte): byte for byte in _PRINTED} | {chr(256 + n): byte for n, byte in enumerate(_HIDDEN)}


class TableTokenizer:
    """A tokenizer that takes the longest known token at each position of the text, which is compared as UTF-8.

    The marks of SentencePiece, byte-level BPE and WordPiece are understood. Unmarked tokens are words, with spaces
    between them, if none has a space and they are neither characters nor made of characters that are tokens.

    name: the tokenizer that meta.pkl names; `sentencepiece`, `word...` and `numeric_range` decide what the tokens are
    """

    def __init__(self, tables: Tables, name: str = "") -> None:
        self._tables, self._name = tables, name
        self.vocab_size = max([*tables.itos, *tables.stoi.values()]) + 1
        self._form, shown = _find_form(tables.stoi, name), _find_form(tables.itos.values(), name)
        # a token of text goes before one of bytes, which are for characters that have no token
        ordered = sorted(tables.stoi.items(), key=lambda item: isinstance(item[0], bytes), reverse=True)
        self._ids = {spelled: number for token, number in ordered if (spelled := self._form.spell(token))}
        self._lengths = sorted({len(spelled) for spelled in self._ids}, reverse=True)
        self._texts = {number: shown.show(token) for number, token in tables.itos.items()}
        self._trims = shown.has_spaces
        self._unknown = next((tables.stoi[token] for token in UNKNOWN_TOKENS if token in tables.stoi), None)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; text without a token becomes <unk> or [UNK] if the tables have one of these.

        Raises DataError for text without a token.
        """
        ids: list[int] = []
        missing: set[str] = set()
        for part in self._form.split(text):
            found, lacking = self._match(part.encode("utf-8", "replace"))
            ids += found
            missing |= lacking
        if missing:
            named = sorted(missing)
            raise DataError(
                f"the data set's {len(self._ids)} tokens lack {', '.join(map(repr, named[:5]))}"
                f"{f' and {len(named) - 5} more' if len(named) > 5 else ''}: remove them from the text, "
                "or prepare the data set again from a text that has them"
            )
        return ids

    encode_ordinary = encode

    def decode(self, ids: Iterable[int]) -> str:
        """Return the tokens as text; U+FFFD replaces ids without a token and bytes that are not UTF-8."""
        text = b"".join(self._texts.get(number, UNKNOWN) for number in ids).decode("utf-8", errors="replace")
        return re.sub(r"^ |(?<=[\n\t]) ", "", text) if self._trims else text

    def meta(self) -> dict[str, Any]:
        """Return the tables under nanoGPT's names."""
        name = {"tokenizer": self._name} if self._name else {}
        return {"vocab_size": self.vocab_size, "itos": self._tables.itos, "stoi": self._tables.stoi, **name}

    def _match(self, part: bytes) -> tuple[list[int], set[str]]:
        """Return the ids of the longest tokens of a part of a text, and the characters or the word without one."""
        ids: list[int] = []
        missing: set[str] = set()
        position = 0
        while position < len(part):
            window = part[position : position + max(self._lengths[0], 4)]
            length = next((n for n in self._lengths if window[:n] in self._ids), None)
            if length is not None:
                ids.append(self._ids[window[:length]])
            elif self._form.is_by_word:
                return ([], {part.decode().strip()}) if self._unknown is None else ([self._unknown], set())
            elif not (self._form.has_spaces and window[:1] == b" "):
                length = _bytes_of_character(window[0])
                ids += [] if self._unknown is None else [self._unknown]
                missing |= {window[:length].decode("utf-8", "replace")} if self._unknown is None else set()
            position += length or 1
        return ids, missing


class _Text:
    """Tokens that are the text itself."""

    has_spaces: ClassVar[bool] = False  # whether text that is shown has a space in front of its first word
    is_by_word: ClassVar[bool] = False  # whether a word that is not known completely is one unknown token

    def spell(self, token: Token) -> bytes:
        """Return the bytes that a token stands for in the parts that `split` makes; none if it stands for nothing."""
        return token if isinstance(token, bytes) else token.encode("utf-8", "replace")

    def show(self, token: Token) -> bytes:
        """Return the bytes of a token in text that is shown."""
        return self.spell(token)

    def split(self, text: str) -> list[str]:
        """Return the parts of a text that are encoded each for itself."""
        return [text]


class _ByteLevelPieces(_Text):
    """GPT-2's tokens as Hugging Face writes them: one character for each byte, Ġ for a space."""

    def spell(self, token: Token) -> bytes:
        if isinstance(token, bytes) or not set(token) <= BYTE_OF.keys():
            return super().spell(token)
        return bytes(BYTE_OF[character] for character in token)


class _SentencePieces(_Text):
    """SentencePiece's tokens: ▁ for a space, <0x0A> for a byte."""

    has_spaces = True

    def __init__(self, tokens: Collection[Token]) -> None:
        self.space = r"[^\S\n]+" if "\n" in tokens else r"\s+"

    def spell(self, token: Token) -> bytes:
        return b"" if " " in str(token) else self.show(token)  # a space of the text is ▁

    def show(self, token: Token) -> bytes:
        text = str(token)
        byte = re.fullmatch("<0x([0-9A-F]{2})>", text)
        return bytes.fromhex(byte[1]) if byte else text.replace("▁", " ").encode("utf-8", "replace")

    def split(self, text: str) -> list[str]:
        return [re.sub(self.space, " ", f" {text}").rstrip(" ")]


class _WordPieces(_Text):
    """WordPiece's tokens: ## in front of all but the first of a word."""

    has_spaces = is_by_word = True

    def __init__(self, tokens: Collection[Token]) -> None:
        self.has_capitals = any(token != token.lower() and not SPECIAL.fullmatch(str(token)) for token in tokens)

    def spell(self, token: Token) -> bytes:
        text = str(token)
        return (text[2:] if text.startswith("##") and len(text) > 2 else f" {text}").encode("utf-8", "replace")

    def split(self, text: str) -> list[str]:
        return [f" {word}" for word in re.findall(r"\w+|[^\w\s]", text if self.has_capitals else text.lower())]


class _Words(_Text):
    """Words and signs, with spaces between them in the text."""

    has_spaces = is_by_word = True

    def __init__(self, tokens: Collection[Token]) -> None:
        self.tokens = set(tokens)

    def show(self, token: Token) -> bytes:
        return self.spell(token) if token.isspace() else b" " + self.spell(token)

    def split(self, text: str) -> list[str]:
        return [part for part in re.findall(r"\S+|\s", text) if not part.isspace() or part in self.tokens]


def _find_form(tokens: Collection[Token], name: str) -> _Text:
    """Return how a table's tokens stand for text, from the tokenizer's name or from the marks of the tokens."""
    texts = {token for token in tokens if isinstance(token, str)}
    plain = [text for text in texts if text and not SPECIAL.fullmatch(text)]
    longer = [text for text in plain if len(text) > 1 and not _is_one_character(text)]
    if len(texts) < len(set(tokens)):  # some are bytes
        return _Text()
    if name == "sentencepiece" or (any(text[0] == "▁" for text in longer) and not any(" " in text for text in longer)):
        return _SentencePieces(texts)
    if not longer or any(" " in text for text in plain):
        return _Text()
    if any(text[0] == "Ġ" for text in longer) and all(set(text) <= BYTE_OF.keys() for text in plain):
        return _ByteLevelPieces()
    if any(text.startswith("##") for text in longer):
        return _WordPieces(texts)
    is_of_characters = all(set(text) <= texts for text in longer)  # such as pieces of DNA
    return _Text() if is_of_characters and not name.startswith(("word", "numeric_range")) else _Words(texts)


def _is_one_character(text: str) -> bool:
    """Return whether readers see one character: a letter with its accents, or an emoji of several code points."""
    is_flag = len(text) == 2 and all("\U0001f1e6" <= character <= "\U0001f1ff" for character in text)
    return is_flag or all(
        unicodedata.category(character)[0] == "M" or character == JOINER or before == JOINER or character in SKIN_TONES
        for before, character in itertools.pairwise(text)
    )


def _bytes_of_character(first: int) -> int:
    """Return the length in UTF-8 of the character that begins with this byte."""
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
