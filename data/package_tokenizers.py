"""Tokenizers of other packages: tiktoken's encodings, SentencePiece's models and Hugging Face's tokenizers."""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import DataError

UNKNOWN = "\ufffd"
HUGGING_FACE = "hugging_face"  # in meta.pkl: the tokenizer is in `tokenizer_json`
TABLES_ADVICE = (
    "write stoi (token to id) and itos (id to token) into it; of a tokenizer of Hugging Face, stoi is get_vocab()"
)


class TiktokenTokenizer:
    """A byte-pair encoding of tiktoken.

    encoding: its name, such as cl100k_base, or the arguments of a tiktoken.Encoding of a user's own

    Raises DataError if tiktoken or the vocabulary is missing.
    """

    def __init__(self, encoding: str | Mapping[str, Any]) -> None:
        self.name = encoding if isinstance(encoding, str) else str(encoding.get("name"))
        self._arguments = None if isinstance(encoding, str) else dict(encoding)
        self.encoding = _load_encoding(self.name) if isinstance(encoding, str) else _make_encoding(encoding)
        self.vocab_size: int = self.encoding.n_vocab

    def encode(self, text: str) -> list[int]:
        """Return the ids of a prompt, in which special tokens such as <|endoftext|> are one id."""
        ids: list[int] = self.encoding.encode(text, allowed_special="all")
        return ids

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a corpus, in which <|endoftext|> is ordinary text."""
        ids: list[int] = self.encoding.encode_ordinary(text)
        return ids

    def encode_ordinary_batch(self, texts: Sequence[str], num_threads: int) -> list[list[int]]:
        """Return the ids of each document of a corpus, encoded by several threads."""
        ids: list[list[int]] = self.encoding.encode_ordinary_batch(list(texts), num_threads=num_threads)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the tokens as text; U+FFFD replaces bytes that are not UTF-8 and ids without a token."""
        return b"".join(map(self._token_bytes, ids)).decode("utf-8", errors="replace")

    def meta(self) -> dict[str, Any] | None:
        """Return the entries of meta.pkl that name the encoding, or hold the arguments of one of a user's own."""
        if self._arguments is not None:  # in the form in which `read_meta` returns a pickled tiktoken.Encoding
            own = {"class": "tiktoken.core.Encoding", "state": self._arguments}
            return {"vocab_size": self.vocab_size, "tokenizer": "tiktoken", "tiktoken_encoding": own}
        return {"vocab_size": self.vocab_size, "tokenizer": "tiktoken", "tiktoken_encoding": self.name}

    def _token_bytes(self, token: int) -> bytes:
        try:
            piece: bytes = self.encoding.decode_single_token_bytes(token)
        except (KeyError, OverflowError):  # some encodings have gaps
            return UNKNOWN.encode()
        return piece


class SentencePieceTokenizer:
    """A tokenizer of the sentencepiece package.

    model: path of its file, or the content of the file

    Raises DataError if the package or the file is missing.
    """

    def __init__(self, model: str | bytes) -> None:
        if isinstance(model, str) and not Path(model).is_file():
            raise DataError(
                f"no file at {model}, the SentencePiece model that meta.pkl names: copy it there, or correct the path"
            )
        try:
            import sentencepiece
        except ImportError:
            raise DataError("meta.pkl is of a SentencePiece tokenizer: pip install sentencepiece") from None
        given = {"model_file": model} if isinstance(model, str) else {"model_proto": model}
        try:
            self._processor: Any = sentencepiece.SentencePieceProcessor(**given)
        except Exception as error:  # the package raises several kinds for a file that it cannot read
            name = model if isinstance(model, str) else "the model in meta.pkl"
            raise DataError(f"{name} is no SentencePiece model ({_first_line(error)}): give its .model file") from error
        self._model = model
        self.vocab_size = int(self._processor.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = self._processor.encode(text)
        return ids

    encode_ordinary = encode

    def decode(self, ids: Iterable[int]) -> str:
        """Return the tokens as text; U+FFFD replaces ids outside the vocabulary."""
        runs = itertools.groupby(ids, lambda number: 0 <= number < self.vocab_size)
        return "".join(self._processor.decode(list(run)) if known else UNKNOWN * len(list(run)) for known, run in runs)

    def meta(self) -> dict[str, Any]:
        """Return the entries of meta.pkl that name the model."""
        return {"vocab_size": self.vocab_size, "tokenizer": "sentencepiece", "model_file": self._model}


class HuggingFaceTokenizer:
    """A tokenizer of the tokenizers package.

    text:           the content of its file tokenizer.json
    special_tokens: its tokens by their meaning, such as eos_token
    chat_template:  how a chat becomes a text, in Jinja; None without one
    longest:        the most tokens of a text, as its folder says; None if it does not
    processor:      of a model of text and images, the files of its processor by their names; None without one

    A corpus gets no start or end token. Raises DataError if the package is missing or cannot read the text.
    """

    def __init__(
        self,
        text: str,
        special_tokens: Mapping[str, str] | None = None,
        chat_template: str | None = None,
        longest: int | None = None,
        processor: Mapping[str, str] | None = None,
    ) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise DataError("the tokens are those of a Hugging Face tokenizer: pip install tokenizers") from None
        try:
            self.tokenizer, self._ordinary = Tokenizer.from_str(text), Tokenizer.from_str(text)
        except Exception as error:  # the package raises plain exceptions
            raise DataError(
                f"its tokenizer cannot be read ({_first_line(error)}): pip install --upgrade tokenizers"
            ) from error
        self._ordinary.encode_special_tokens = True
        self.special_tokens, self.chat_template, self.longest = dict(special_tokens or {}), chat_template, longest
        self.json, self.processor = text, processor
        self.vocab_size = int(self.tokenizer.get_vocab_size())

    def with_processor(self, files: Mapping[str, str]) -> "HuggingFaceTokenizer":
        """Return this tokenizer with another processor."""
        return HuggingFaceTokenizer(self.json, self.special_tokens, self.chat_template, self.longest, files)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a prompt, in which special tokens such as </s> are one id, after the start token if any."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        start = self.around()[0]
        return ids if ids[: len(start)] == start else [*start, *ids]

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a corpus, in which </s> is ordinary text."""
        ids: list[int] = self._ordinary.encode(text, add_special_tokens=False).ids
        return ids

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Return (id, first, last + 1) of the tokens of a corpus, with the characters that each stands for."""
        return _spans(self._ordinary, text)

    def marked_spans(self, text: str) -> list[tuple[int, int, int]]:
        """Return what `spans` does, of a text in which special tokens are one id."""
        return _spans(self.tokenizer, text)

    @functools.cache  # noqa: B019
    def around(self) -> tuple[list[int], list[int]]:
        """Return the ids that the tokenizer itself puts in front of a text, and after it."""
        plain = self.tokenizer.encode("a", add_special_tokens=False).ids
        marked = self.tokenizer.encode("a", add_special_tokens=True).ids
        place = next((i for i in range(len(marked)) if marked[i : i + len(plain)] == plain), 0)
        return marked[:place], marked[place + len(plain) :]

    def special_id(self, meaning: str) -> int | None:
        """Return the id of a special token by its meaning, such as eos_token; None if there is none."""
        token = self.special_tokens.get(meaning)
        return None if token is None else self.tokenizer.token_to_id(token)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the tokens as text, special ones too, but for the start token; U+FFFD replaces unknown ids."""
        numbers, start = list(ids), self.around()[0]
        numbers = numbers[len(start) :] if numbers[: len(start)] == start else numbers
        runs = itertools.groupby(numbers, lambda number: 0 <= number < self.vocab_size)
        return "".join(
            self.tokenizer.decode(list(run), skip_special_tokens=False) if known else UNKNOWN * len(list(run))
            for known, run in runs
        )

    def meta(self) -> dict[str, Any]:
        """Return the entries of meta.pkl that hold the tokenizer."""
        known: dict[str, Any] = {"tokenizer_json": self.json, "special_tokens": self.special_tokens}
        more = {"chat_template": self.chat_template, "longest": self.longest, "processor": self.processor}
        given = {name: value for name, value in more.items() if value is not None}
        return {"vocab_size": self.vocab_size, "tokenizer": HUGGING_FACE, **known, **given}


def _spans(tokenizer: Any, text: str) -> list[tuple[int, int, int]]:
    """Return the tokens with their characters; each begins where the last one ends, also if spaces are trimmed."""
    found = tokenizer.encode(text, add_special_tokens=False)
    spans, place = [], 0
    for number, (first, last) in zip(found.ids, found.offsets, strict=True):
        spans.append((number, min(first, place), max(last, place)))
        place = max(last, place)
    return spans


def _load_encoding(name: str) -> Any:
    """Return an encoding of tiktoken, from its cache or from the network."""
    try:
        import tiktoken
    except ImportError as error:
        whose = "GPT-2's tokenizer" if name == "gpt2" else f"the tokenizer {name}"
        raise DataError(f"{whose} needs tiktoken: pip install tiktoken") from error
    known = tiktoken.list_encoding_names()
    if name not in known:
        raise DataError(
            f"meta.pkl names the tiktoken encoding {name!r}, wanted one of {', '.join(known)}: correct "
            "'tiktoken_encoding' in meta.pkl, or pip install --upgrade tiktoken"
        )
    names = (name, "gpt2") if name == "r50k_base" else (name,)  # two sets of files, the same ids
    for same in names:
        try:
            return tiktoken.get_encoding(same)
        except (OSError, ValueError) as error:  # no network, or a cached file with a wrong checksum
            cause = error
    raise DataError(
        f"no {'GPT-2' if name == 'gpt2' else name} vocabulary from tiktoken's cache or the network "
        f"({type(cause).__name__}): go online once, or set TIKTOKEN_CACHE_DIR to a folder that holds it"
    ) from cause


def _make_encoding(arguments: Mapping[str, Any]) -> Any:
    """Return a tiktoken.Encoding of a user's own."""
    try:
        import tiktoken

        return tiktoken.Encoding(**arguments)
    except ImportError:
        raise DataError("meta.pkl holds an encoding of tiktoken: pip install tiktoken") from None
    except Exception as error:  # tiktoken raises several kinds for arguments that do not fit
        raise DataError(f"meta.pkl holds a damaged tiktoken.Encoding ({_first_line(error)}): {TABLES_ADVICE}") from (
            error
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
