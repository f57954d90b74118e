"""Whether an update of the weights that an error ended is complete."""

from typing import Any

import torch

NOT_BEGUN, COMPLETE, PARTIAL = "not begun", "complete", "partial"


class UpdateWatch:
    """Says how far `optimizer.step()` came, from how often it has changed each tensor.

    torch counts the changes of a tensor in place. Fused kernels change weights uncounted, but not the step counters,
    which they raise just before. An update is complete if it made as many changes as the update before it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._counts: list[Any] = []  # before the update at hand
        self._previous: list[Any] = []  # before the update before it

    def begin(self) -> None:
        """Note the state before an update."""
        self._previous, self._counts = self._counts, self._count()

    def progress(self) -> str:
        """Return NOT_BEGUN, COMPLETE or PARTIAL, of the update that began last."""
        changes = _changes(self._counts, self._count())
        if changes is not None and not any(changes):
            return NOT_BEGUN
        is_complete = changes is not None and changes == _changes(self._previous, self._counts)
        return COMPLETE if is_complete else PARTIAL

    def _count(self) -> list[Any]:
        """Return a number for each parameter, and for each tensor and number in the optimizer's state."""
        parts = getattr(self.optimizer, "optimizers", [self.optimizer])
        groups = [group for part in parts for group in part.param_groups]
        states = [state for part in parts for state in part.state.values()]
        # in one expression, because it runs at every update: 50 microseconds for a GPT-2
        return [p._version for group in groups for p in group["params"]] + [
            getattr(value, "_version", value) for state in states for value in state.values()
        ]


def _changes(before: list[Any], after: list[Any]) -> list[Any] | None:
    """Return the differences; None if they cannot be told, because something was added or is no number."""
    if len(before) != len(after):
        return None
    try:
        return [new - old for old, new in zip(before, after, strict=True)]
    except TypeError:
        return None
