"""What a meta.pkl says of its vocabulary, in the forms in which people's prepare scripts write it.

Tables from token to id and from id to token, the name of a tokenizer, the file of one, or an object of a tokenizer
package, which `read_meta` returns as a dict of its `class` and its `state`.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

Token: TypeAlias = str | bytes

TO_ID = (
    *("stoi", "ctoi", "char_to_idx", "char_to_id", "char2idx", "char2id", "word_to_idx", "word_to_id", "word2idx"),
    *("word2id", "token_to_idx", "token_to_id", "token2idx", "token2id", "encoder", "vocab", "vocabulary"),
)
TO_TOKEN = (
    *("itos", "itoc", "idx_to_char", "id_to_char", "idx2char", "id2char", "idx_to_word", "id_to_word", "idx2word"),
    *("id2word", "idx_to_token", "id_to_token", "idx2token", "id2token", "decoder", "chars", "characters", "tokens"),
    *("words", "alphabet", "vocab", "vocabulary"),
)
MAY_BE_COUNTS = ("vocab", "vocabulary", "words", "tokens", "chars", "characters")
ENCODINGS = {  # of tiktoken, with the number of their ids
    **{"gpt2": 50257, "r50k_base": 50257, "p50k_base": 50281, "p50k_edit": 50284},
    **{"cl100k_base": 100277, "o200k_base": 200019, "o200k_harmony": 201088},
}
NAMES = (  # of a tokenizer
    *("tokenizer", "tiktoken_encoding", "encoding", "encoding_name", "enc", "tokenizer_name", "tokenizer_type"),
    "tokenizer_model",
)
MODEL_FILES = (  # of SentencePiece
    *("model_file", "spm_model_file", "sp_model_file", "model_path", "spm_model_path", "sp_model_path", "spm_model"),
    *("sp_model", "tokenizer_path", "tokenizer_file", "tokenizer_model", "tokenizer", "sp", "spm"),
)
GPT2_MODEL = re.compile(r"((openai-community|distilbert)/)?(distil)?gpt2(-medium|-large|-xl)?")  # of Hugging Face
BYTES = 256


class Tables(NamedTuple):
    """Both tables of a vocabulary. Tokens are text, or bytes of UTF-8."""

    stoi: dict[Token, int]
    itos: dict[int, Token]


def find_tables(meta: Mapping[str, Any]) -> Tables | None:
    """Return the tables of meta.pkl, a missing one made from the other; None if it has neither.

    A list, a tuple or a string is a table whose ids are the positions. Numbers below 256 become bytes.
    """
    forward, back = (
        next((pairs for name in names if (pairs := _pairs(meta, name, names is TO_TOKEN))), [])
        for names in (TO_ID, TO_TOKEN)
    )
    # of two ids of a token, or two tokens of an id, the first one is used
    stoi = {token: number for token, number in reversed(forward or back)}
    itos = {number: token for token, number in reversed(back or forward)}
    return Tables(stoi, itos) if stoi else None


def count_ids(meta: Mapping[str, Any]) -> int | None:
    """Return the number of ids that the tables of meta.pkl need, the largest one plus 1; None if it has no tables."""
    for name in (*TO_TOKEN, *TO_ID):
        table = meta.get(name)
        if isinstance(table, dict) and not _holds_counts(name, table):
            keys, values = [_as_id(key) for key in table], list(table.values())
            for numbers in (keys, values) if name in TO_TOKEN else (values, keys):
                if numbers and all(map(_is_id, numbers)):
                    return int(max(numbers)) + 1
        elif isinstance(table, dict | list | tuple | str | set | frozenset) and table:
            return len(table)
    return None


def _pairs(meta: Mapping[str, Any], name: str, id_first: bool) -> list[tuple[Token, int]]:
    """Return the (token, id) of a table in any form; nothing for what is no table.

    id_first: whether a table of numbers goes from ids to bytes
    """
    table = meta.get(name)
    if isinstance(table, str | list | tuple):
        return _as_tokens([(token, number) for number, token in enumerate(table)])
    if not isinstance(table, dict) or _holds_counts(name, table):
        return []
    keys_are_ids, values_are_ids = all(map(_is_id, table)), all(map(_is_id, table.values()))
    if values_are_ids and not (keys_are_ids and id_first):
        return _as_tokens(list(table.items()))
    return _as_tokens([(token, _as_id(key)) for key, token in table.items()])


def _as_tokens(pairs: list[tuple[Any, Any]]) -> list[tuple[Token, int]]:
    """Return pairs whose numbers have become bytes; nothing unless all are of a token and an id."""
    numbers = [token for token, _ in pairs if _is_id(token)]
    if numbers and (max(numbers) > 255 or (max(numbers) < 32 and len(numbers) == len(pairs))):
        return []  # numbers that stand for themselves, no text
    found = [(bytes([token]) if _is_id(token) else token, number) for token, number in pairs]
    return found if all(isinstance(token, str | bytes) and _is_id(number) for token, number in found) else []


def _holds_counts(name: str, table: dict[Any, Any]) -> bool:
    """Return whether a table may say how often its tokens occur, as a Counter does: its numbers are not 0 to n - 1."""
    numbers = list(table.values())
    counts = name in MAY_BE_COUNTS and all(map(_is_id, numbers)) and not all(map(_is_id, table))
    return counts and sorted(numbers) != list(range(len(numbers)))


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _as_id(value: object) -> Any:
    """Return the number of a string of digits, as JSON makes of a number that is a key; anything else as it is."""
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) else value


def find_vocab_size(meta: Mapping[str, Any]) -> int | None:
    """Return the number of ids of a meta.pkl without vocab_size, from its tables or its tokenizer; None if unknown."""
    encoding = tiktoken_encoding(meta)
    known = ENCODINGS.get(encoding) if isinstance(encoding, str) else None
    return known or count_ids(meta) or (BYTES if tokenizer_name(meta) == "byte" else None)


def tokenizer_name(meta: Mapping[str, Any]) -> str:
    """Return the name of the tokenizer in small letters; empty if there is none."""
    name = next((value for key in NAMES if isinstance(value := meta.get(key), str)), "")
    return "" if name == "char" else name.lower()


def tiktoken_encoding(meta: Mapping[str, Any]) -> str | dict[str, Any] | None:
    """Return the name of the tiktoken encoding, or the arguments of one of a user's own; None if it is another kind.

    Where only tiktoken is named, the size of the vocabulary tells the encoding; the name is empty if it does not.
    """
    state = _state(meta, "tiktoken.")
    if isinstance(state, str | dict):
        return state
    values = [str(meta[key]).lower() for key in NAMES if meta.get(key)]
    names = [value.replace("tiktoken", "").strip("-_:/ ").replace("gpt-2", "gpt2") for value in values]
    names = ["gpt2" if GPT2_MODEL.fullmatch(name) else name for name in names]
    known = next((name for name in names if name in ENCODINGS), None)
    if known or "tiktoken" not in " ".join(values):
        return known
    sizes = (name for name, size in ENCODINGS.items() if size == meta.get("vocab_size"))
    return next((name for name in (*names, *sizes) if name), "")


def sentencepiece_model(meta: Mapping[str, Any]) -> str | bytes | None:
    """Return the file of a SentencePiece model, or the content of one that the meta.pkl holds; None without a model."""
    state = _state(meta, "sentencepiece.")
    state = state.get("model_proto") if isinstance(state, dict) else state
    files = (value for key in MODEL_FILES if isinstance(value := meta.get(key), str) and value.endswith(".model"))
    return state if isinstance(state, bytes) else next(files, None)


def _state(meta: Mapping[str, Any], package: str) -> Any:
    """Return the state of the first object of a package in a meta.pkl; None if it has none."""
    objects = (value for value in meta.values() if isinstance(value, dict) and "state" in value)
    return next((value["state"] for value in objects if str(value.get("class")).startswith(package)), None)
