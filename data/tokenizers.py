"""Tokenizers by character, by byte, and GPT-2's byte-pair encoding.

All three have `encode(text)`, `encode_ordinary(text)` (without special tokens, for corpora), `decode(ids)`,
`vocab_size`, and `meta()`, the content of meta.pkl or None for no file. An id outside the vocabulary, which a model
with a padded vocabulary can sample, decodes to U+FFFD.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from core.errors import DataError

UNKNOWN = "\ufffd"
END_OF_TEXT = "<|endoftext|>"


class CharTokenizer:
    """A tokenizer with one id for each character of a data set."""

    def __init__(self, stoi: Mapping[str, int], itos: Mapping[int, str]) -> None:
        self.stoi, self.itos = dict(stoi), dict(itos)
        self.vocab_size = len(self.itos)

    @classmethod
    def from_text(cls, text: str) -> "CharTokenizer":
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


class Gpt2Tokenizer:
    """GPT-2's byte-pair encoding, from tiktoken."""

    def __init__(self) -> None:
        try:
            import tiktoken

            self._encoding = tiktoken.get_encoding("gpt2")
        except ImportError as error:
            raise DataError("GPT-2's tokenizer needs tiktoken: pip install tiktoken") from error
        except (OSError, ValueError) as error:  # no network, or a cached file with a wrong checksum
            raise DataError(
                f"no GPT-2 vocabulary from tiktoken's cache or the network ({type(error).__name__}): "
                "go online once, or set TIKTOKEN_CACHE_DIR to a folder that holds it"
            ) from error
        self.vocab_size: int = self._encoding.n_vocab
        self.eot_token: int = self._encoding.eot_token

    def encode(self, text: str) -> list[int]:
        """Return the ids of a prompt, in which <|endoftext|> is the special token."""
        ids: list[int] = self._encoding.encode(text, allowed_special={END_OF_TEXT})
        return ids

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a corpus, in which <|endoftext|> is ordinary text."""
        ids: list[int] = self._encoding.encode_ordinary(text)
        return ids

    def encode_ordinary_batch(self, texts: Sequence[str], num_threads: int) -> list[list[int]]:
        """Return the ids of each document of a corpus, encoded by several threads."""
        ids: list[list[int]] = self._encoding.encode_ordinary_batch(list(texts), num_threads=num_threads)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the tokens as text; U+FFFD replaces bytes that are not UTF-8 and ids from 50257 on."""
        return b"".join(map(self._token_bytes, ids)).decode("utf-8", errors="replace")

    def meta(self) -> None:
        """Return None: a data set of GPT-2 tokens has no meta.pkl."""

    def _token_bytes(self, token: int) -> bytes:
        valid = 0 <= token < self.vocab_size
        return self._encoding.decode_single_token_bytes(token) if valid else UNKNOWN.encode()


Tokenizer: TypeAlias = CharTokenizer | ByteTokenizer | Gpt2Tokenizer


def tokenizer_from_meta(meta: Mapping[str, Any] | None) -> Tokenizer:
    """Return the tokenizer that a data set's meta.pkl describes; for None (no meta.pkl), GPT-2's."""
    name = "gpt2" if meta is None else meta.get("tokenizer", "char")
    if name == "gpt2":
        return Gpt2Tokenizer()
    if name == "byte":
        return ByteTokenizer()
    if name != "char":
        raise DataError(f"meta.pkl names the tokenizer {name!r}, wanted char, byte or gpt2: prepare the data set again")
    assert meta is not None
    stoi: Any = meta.get("stoi")
    itos: Any = meta.get("itos")
    if isinstance(itos, list):
        itos = dict(enumerate(itos))
    if not _is_table(stoi, str, int) or not _is_table(itos, int, str):
        raise DataError("meta.pkl lacks stoi (character to id) or itos (the reverse): prepare the data set again")
    return CharTokenizer(stoi, itos)


def _is_table(table: object, key_type: type, value_type: type) -> bool:
    return isinstance(table, dict) and all(
        isinstance(key, key_type) and isinstance(value, value_type) for key, value in table.items()
    )
