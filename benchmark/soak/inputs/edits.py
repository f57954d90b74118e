"""Random edits of bytes, words and values that every kind of input uses."""

import random
from collections.abc import Callable
from typing import Any

PLAIN_WORDS = """
    None none null True yes no off many abc out tiny cpu auto ü 日本 🙂 ééé $HOME $NOT_SET ~ ~nobody/x .. ../x / .
    /proc/self/mem /dev/null - -- = * [ {} [] [1 () 1,2 0x10 1_000 1e3 1e-3 1.5 ½ ٣ ' \"
"""
WORDS = (
    *PLAIN_WORDS.split(),
    *("", " ", "a b", "a\tb", "a\nb", "a\r", "\x00", "\x1b[31m", "\ufeff", "\u202e", "\ud800"),
    *("1" * 5000, "a" * 300, "x" * 70_000),
)
NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 5, 8, 16, 17, 1000, 65_536, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30),
    *(10**400, 0.0, -0.0, 0.1, 0.5, 0.999, 1.0, 1.5, -1.5, 1e-9, 1e-45, 1e30, 1e300, 1e308, float("inf"), float("nan")),
    -float("inf"),
)

KEYS = ("a", "type", 1, None, (1, 2))


def value(rng: random.Random, depth: int = 0) -> Any:
    """Return a plain value of a random type: a number, text, bytes, None, or a container of such values."""
    kinds: list[Callable[[], Any]] = [
        lambda: rng.choice(NUMBERS),
        lambda: rng.choice(WORDS),
        lambda: rng.choice([True, False, None]),
        lambda: rng.randrange(-20, 40),
        lambda: rng.choice([b"", b"ab", bytes(range(8))]),
    ]
    if depth < 3:
        kinds += [
            lambda: [value(rng, depth + 1) for _ in range(rng.randrange(4))],
            lambda: tuple(value(rng, depth + 1) for _ in range(rng.randrange(3))),
            lambda: {rng.choice(KEYS): value(rng, depth + 1) for _ in range(rng.randrange(3))},
        ]
    return rng.choice(kinds)()


def misspelt(rng: random.Random, word: str) -> str:
    """Return a word with one slip of the keyboard."""
    if not word:
        return "x"
    at = rng.randrange(len(word))
    slips = [
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
        word[:at] + rng.choice("abcxyz_-é1") + word[at + 1 :],
        word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :],
        word.upper(),
        word.replace("_", "-"),
        word + rng.choice([" ", "s", "\u00a0", "_"]),
    ]
    return rng.choice(slips)


# of bytes


def damaged(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Return the name of a random edit, and the edited content."""
    edit = rng.choice(BYTE_EDITS)
    return edit.__name__.strip("_"), edit(rng, content)


def _flipped(rng: random.Random, content: bytes) -> bytes:
    edited = bytearray(content or b"\0")
    for _ in range(rng.choice([1, 1, 2, 5, 50])):
        edited[rng.randrange(len(edited))] ^= 1 << rng.randrange(8)
    return bytes(edited)


def _truncated(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _emptied(rng: random.Random, content: bytes) -> bytes:
    return b""


def _without_a_part(rng: random.Random, content: bytes) -> bytes:
    start, end = _range(rng, content)
    return content[:start] + content[end:]


def _with_a_part_twice(rng: random.Random, content: bytes) -> bytes:
    start, end = _range(rng, content)
    return content[:end] + content[start:]


def _zeroed(rng: random.Random, content: bytes) -> bytes:
    start, end = _range(rng, content)
    return content[:start] + bytes(end - start) + content[end:]


def _with_random_bytes(rng: random.Random, content: bytes) -> bytes:
    start, end = _range(rng, content)
    return content[:start] + rng.randbytes(min(end - start, 64)) + content[end:]


def _doubled(rng: random.Random, content: bytes) -> bytes:
    return content + content


def _with_a_tail(rng: random.Random, content: bytes) -> bytes:
    return content + rng.choice([b"\0", b"\n", b"\x1a", rng.randbytes(7), b"<html>", b"\xef\xbb\xbf"])


def _with_a_mark(rng: random.Random, content: bytes) -> bytes:
    return rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\0", b"#!/bin/sh\n", b"\x1f\x8b"]) + content


def _with_windows_line_ends(rng: random.Random, content: bytes) -> bytes:
    return content.replace(b"\n", rng.choice([b"\r\n", b"\r"]))


def _recoded(rng: random.Random, content: bytes) -> bytes:
    text = content.decode("utf-8", "replace").replace("e", rng.choice(["e", "é", "日"]))
    return text.encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-7"]), "replace")


def _another_file(rng: random.Random, content: bytes) -> bytes:
    return rng.choice(OTHER_FILES)


def _range(rng: random.Random, content: bytes) -> tuple[int, int]:
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + rng.choice([1, 2, 8, 64, 1000]))


BYTE_EDITS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_flipped, _truncated, _emptied, _without_a_part, _with_a_part_twice, _zeroed, _with_random_bytes, _doubled),
    *(_with_a_tail, _with_a_mark, _with_windows_line_ends, _recoded, _another_file),
)
OTHER_FILES = (
    *(b"\n", b"nonsense", b"To be, or not to be\n" * 50, b"<!DOCTYPE html><html></html>\n", b"[]", b"{}", b"null"),
    *(
        b"7",
        b"a,b\n1,2\n",
        b'{"a": 1}\n{"b": 2}\n',
        b"\xff" * 100,
        b"PK\x05\x06" + bytes(18),
        b"\x80\x04.",
        b"\x80\x04N.",
    ),
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
    *(b"\x89PNG\r\n\x1a\n" + bytes(40), b"\x1f\x8b\x08\0" + bytes(30), b"\x7fELF" + bytes(60), b"%PDF-1.7\n"),
    *(b"\x93NUMPY\x01\0", b"#!/bin/sh\n"),
)
