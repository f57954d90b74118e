"""The parts that have a `state_dict`, by class name: the keys of their states in checkpoints."""

from collections.abc import Iterable
from typing import Any


def stateful(parts: Iterable[Any]) -> dict[str, Any]:
    """Return the parts that have a `state_dict`, by class name; from the second of a class on: `Patience-2`.

    A part that stands for an object of another class has the name of that class as its `state_name`.
    """
    found: dict[str, Any] = {}
    for part in parts:
        if hasattr(part, "state_dict"):
            name = _name_of(part)
            count = sum(_name_of(other) == name for other in found.values())
            found[f"{name}-{count + 1}" if count else name] = part
    return found


def _name_of(part: Any) -> str:
    return str(getattr(part, "state_name", type(part).__name__))
