"""The tokenizers of data sets, and which of them a meta.pkl means.

All have `encode(text)`, `encode_ordinary(text)` (without special tokens, for corpora), `decode(ids)`, `vocab_size`,
and `meta()`, the content of meta.pkl or None for no file. An id outside the vocabulary, which a model with a padded
vocabulary can sample, decodes to U+FFFD.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeAlias

from core.errors import DataError
from data.meta_contents import Tables, find_tables, sentencepiece_model, tiktoken_encoding, tokenizer_name
from data.package_tokenizers import (
    HUGGING_FACE,
    TABLES_ADVICE,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    TiktokenTokenizer,
)
from data.table_tokenizer import TableTokenizer

log = logging.getLogger("coregpt")
UNKNOWN = "\ufffd"
GPT2_SIZES = (50257, 50304)  # of GPT-2's vocabulary, and of that rounded up as nanoGPT's models are


class CharTokenizer:
    """A tokenizer with one id for each character of a data set."""

    def __init__(self, stoi: Mapping[str, int], itos: Mapping[int, str]) -> None:
        self.stoi, self.itos = dict(stoi), dict(itos)
        self.vocab_size = len(self.itos)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return a tokenizer for the characters of `text`, numbered in sorted order."""
        characters = sorted(set(text))
        return cls({c: i for i, c in enumerate(characters)}, dict(enumerate(characters)))

    def encode(self, text: str) -> list[int]:
        """Return the ids of the characters; DataError for a character without an id."""
        try:
            return [self.stoi[c] for c in text]
        except KeyError:
            missing = sorted(set(text) - set(self.stoi))
            raise DataError(
                f"the data set's {self.vocab_size} characters lack {', '.join(map(repr, missing[:5]))}"
                f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}: remove them from the text, "
                "or prepare the data set again from a text that has them"
            ) from None

    encode_ordinary = encode

    def decode(self, ids: Iterable[int]) -> str:
        """Return the characters of `ids` as text."""
        return "".join(self.itos.get(i, UNKNOWN) for i in ids)

    def meta(self) -> dict[str, Any]:
        """Return nanoGPT's three entries of meta.pkl."""
        return {"vocab_size": self.vocab_size, "itos": self.itos, "stoi": self.stoi}


class ByteTokenizer:
    """A tokenizer with one id for each byte of the text in UTF-8, 256 ids in all."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        """Return the bytes of `text` as ids."""
        return list(text.encode("utf-8", errors="replace"))

    encode_ordinary = encode

    def decode(self, ids: Iterable[int]) -> str:
        """Return the bytes as text; U+FFFD replaces bytes that are not UTF-8, such as half a character."""
        pieces = (bytes([i]) if 0 <= i < 256 else UNKNOWN.encode() for i in ids)
        return b"".join(pieces).decode("utf-8", errors="replace")

    def meta(self) -> dict[str, Any]:
        """Return Latin-1 tables, with which nanoGPT's sample.py decodes ASCII correctly, and the tokenizer's name."""
        itos = {i: chr(i) for i in range(256)}
        return {"vocab_size": 256, "itos": itos, "stoi": {c: i for i, c in itos.items()}, "tokenizer": "byte"}


class Gpt2Tokenizer(TiktokenTokenizer):
    """GPT-2's byte-pair encoding, from tiktoken."""

    def __init__(self) -> None:
        super().__init__("gpt2")
        self.eot_token: int = self.encoding.eot_token

    def meta(self) -> None:
        """Return None: a data set of GPT-2 tokens has no meta.pkl."""


Tokenizer: TypeAlias = (
    CharTokenizer | ByteTokenizer | TableTokenizer | TiktokenTokenizer | SentencePieceTokenizer | HuggingFaceTokenizer
)


def tokenizer_from_meta(meta: Mapping[str, Any] | None) -> Tokenizer:
    """Return the tokenizer that a data set's meta.pkl describes; for None (no meta.pkl), GPT-2's.

    That is an encoding of tiktoken, a tokenizer of Hugging Face, else a SentencePiece model, else tables of tokens.
    Raises DataError if a package or a file is missing, or meta.pkl describes no tokenizer.
    """
    if meta is None:
        return Gpt2Tokenizer()
    name, encoding, tables = tokenizer_name(meta), tiktoken_encoding(meta), find_tables(meta)
    if encoding is not None:
        return Gpt2Tokenizer() if encoding == "gpt2" else TiktokenTokenizer(encoding)
    if name == HUGGING_FACE and isinstance(meta.get("tokenizer_json"), str):
        rest = (meta.get(name) for name in ("special_tokens", "chat_template", "longest", "processor"))
        return HuggingFaceTokenizer(meta["tokenizer_json"], *rest)
    if name == "byte" and (tables is None or _are_bytes(tables)):
        return ByteTokenizer()
    if (model := sentencepiece_model(meta)) is not None:
        try:
            return SentencePieceTokenizer(model)
        except DataError as error:
            if tables is None:
                raise
            log.warning(f"{error}; without it a prompt is split into the longest known tokens")
    if tables is not None:
        return _of_tables(tables, name)
    if meta.get("vocab_size") in GPT2_SIZES and not name:
        log.warning(f"meta.pkl names no tokenizer: assuming GPT-2's, from vocab_size={meta['vocab_size']}")
        return Gpt2Tokenizer()
    raise _no_tokenizer(meta, name)


def _of_tables(tables: Tables, name: str) -> CharTokenizer | TableTokenizer:
    """Return a tokenizer for tables: by character if all tokens are characters."""
    stoi = {token: number for token, number in tables.stoi.items() if isinstance(token, str) and len(token) == 1}
    itos = {number: token for number, token in tables.itos.items() if isinstance(token, str) and len(token) == 1}
    if len(stoi) == len(tables.stoi) and len(itos) == len(tables.itos):
        return CharTokenizer(stoi, itos)
    return TableTokenizer(tables, name)


def _are_bytes(tables: Tables) -> bool:
    """Return whether the token of each id below 256 is the byte of that value."""
    return all(tables.itos.get(number) in (chr(number), bytes([number])) for number in range(256))


def _no_tokenizer(meta: Mapping[str, Any], name: str) -> DataError:
    """Return the error for a meta.pkl that describes no tokenizer. name: of the tokenizer in it"""
    held = next((value["class"] for value in meta.values() if isinstance(value, dict) and "class" in value), None)
    if held:
        return DataError(f"meta.pkl holds an object of {held}, wanted tables of tokens: {TABLES_ADVICE}")
    if "sentencepiece" in name or name == "spm":
        return DataError(
            "meta.pkl names the tokenizer sentencepiece, but no model: pip install sentencepiece, and write the path "
            "of the .model file under 'model_file' into meta.pkl"
        )
    if name:
        return DataError(
            f"meta.pkl names the tokenizer {name!r} and has no tables of tokens, wanted char, byte, gpt2 or another "
            f"encoding of tiktoken, or sentencepiece: {TABLES_ADVICE}"
        )
    keys = ", ".join(map(str, meta))[:99]
    return DataError(f"meta.pkl names no tokenizer and has no table of text tokens, only {keys}: {TABLES_ADVICE}")
