"""What the token ids of a data set stand for, and whether two data sets mean the same by them.

The content of a data set's meta.pkl says it: a table of tokens (`itos`, `stoi`), or a tokenizer's name. None, a data
set without meta.pkl, means GPT-2's tokens.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, TypeAlias

from data.meta_contents import find_tables, tiktoken_encoding, tokenizer_name

Meta: TypeAlias = Mapping[str, Any] | None
GPT2 = "gpt2"


def difference(then: Meta, now: Meta) -> str:
    """Return in what two vocabularies differ, for a message; "" if they mean the same, or one does not say.

    then: what a model has learnt; now: what a data set says
    """
    ours, theirs = _meaning(then), _meaning(now)
    if ours is None or theirs is None or ours == theirs:
        return ""
    if isinstance(ours, str) or isinstance(theirs, str):
        return f"{_described(ours)} there, {_described(theirs)} here"
    changed = sorted(number for number in ours.keys() & theirs.keys() if ours[number] != theirs[number])
    parts = [f"{len(ours)} tokens there, {len(theirs)} here"] if len(ours) != len(theirs) else []
    if changed:
        first = changed[0]
        parts.append(f"id {first} is {ours[first]!r} there and {theirs[first]!r} here")
    if len(changed) > 1:
        parts.append(f"{len(changed) - 1} more ids differ")
    return ", ".join(parts) or "other ids"


def storable(meta: Meta) -> dict[str, Any] | None:
    """Return what of a meta.pkl any program can read in a checkpoint: entries of plain values; None for None."""
    return None if meta is None else {name: value for name, value in meta.items() if _is_plain(value)}


def sizes_differ(model_size: int, data_size: int) -> bool:
    """Return whether a model has another vocabulary than a data set, as far as the sizes tell.

    A model's size may be the data set's rounded up to a multiple of 8, 16, 32, 64 or 128, for speed.
    """
    rounded = {-(-data_size // multiple) * multiple for multiple in (1, 8, 16, 32, 64, 128)}
    return model_size not in rounded


def _meaning(meta: Meta) -> str | dict[int, Any] | None:
    """Return a tokenizer's name, or its tokens by id; None if meta.pkl says neither."""
    if meta is None:
        return GPT2
    encoding, name = tiktoken_encoding(meta), tokenizer_name(meta)
    if encoding:
        return encoding if isinstance(encoding, str) else str(encoding.get("name"))
    if isinstance(meta.get("tokenizer_json"), str):
        return f"{name} {hashlib.sha256(meta['tokenizer_json'].encode()).hexdigest()[:8]}"
    tables = None if name == "byte" else find_tables(meta)
    return (name or None) if tables is None else tables.itos


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | bytes | int | float)


def _described(meaning: str | dict[int, Any]) -> str:
    return f"the tokenizer {meaning}" if isinstance(meaning, str) else f"{len(meaning)} tokens of its own"
