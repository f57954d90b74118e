"""Coloured text for terminals."""

from collections.abc import Callable, Sequence
from itertools import groupby

GREEN = "32"
BACKGROUNDS = ("", "41", "44", "42", "45", "43", "46")  # of classes: none for class 0, then red, blue ...
Decode = Callable[[list[int]], str]


def paint(text: str, colour: str) -> str:
    """Return the text in a colour: a code such as 32 for green, or an empty string. Line ends are not coloured."""
    if not colour:
        return text
    return "\n".join(f"\x1b[{colour}m{line}\x1b[0m" if line else "" for line in text.split("\n"))


def pieces(ids: Sequence[int], kinds: Sequence[str], decode: Decode) -> list[tuple[str, str]]:
    """Return the text cut where the kind (such as a colour) of its tokens changes: (text, kind) of every piece.

    The tokens of a piece are decoded together, because a character may take several tokens.
    """
    runs = groupby(zip(ids, kinds, strict=True), key=lambda pair: pair[1])
    return [(decode([token for token, _ in pairs]), kind) for kind, pairs in runs]
