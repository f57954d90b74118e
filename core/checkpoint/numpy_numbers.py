"""NumPy's numbers in a checkpoint file, read as Python's numbers. NumPy itself is not needed, and not called."""

from __future__ import annotations

import struct
from typing import Any

FORMATS = {  # NumPy's name of a type -> that of the module struct
    "b1": "?",
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q"},
    **{"u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
    **{"f2": "e", "f4": "f", "f8": "d"},
}


class NumberType:
    """Stands for `numpy.dtype` while a file is read."""

    def __init__(self, name: str, *_: bool) -> None:
        self.name = name
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def number(kind: NumberType, content: bytes) -> bool | int | float:
    """Return the Python number that NumPy has stored as these bytes. Raises ValueError for other types of NumPy."""
    if kind.name not in FORMATS:
        raise ValueError(f"a NumPy value of type {kind.name}")
    value: bool | int | float = struct.unpack(kind.order + FORMATS[kind.name], content)[0]
    return value


# what a pickle of a NumPy number calls, before and since NumPy 2; for `torch.serialization.safe_globals`
ALLOWED: list[Any] = [
    (number, "numpy.core.multiarray.scalar"),
    (number, "numpy._core.multiarray.scalar"),
    (NumberType, "numpy.dtype"),
]
