"""The parts that have a `state_dict`, by class name: the keys of their states in checkpoints."""

from collections.abc import Iterable
from typing import Any


def stateful(parts: Iterable[Any]) -> dict[str, Any]:
    """Return the parts that have a `state_dict`, by class name; from the second of a class on: `Patience-2`."""
    found: dict[str, Any] = {}
    for part in parts:
        if hasattr(part, "state_dict"):
            name = type(part).__name__
            count = sum(type(other).__name__ == name for other in found.values())
            found[f"{name}-{count + 1}" if count else name] = part
    return found
