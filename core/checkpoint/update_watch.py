"""Whether an update of the weights that an error ended is complete."""

from typing import Any

import torch

NOT_BEGUN, COMPLETE, PARTIAL = "not begun", "complete", "partial"
Counts = list[Any]


class UpdateWatch:
    """Says how far `optimizer.step()` came, from how often it has changed each tensor.

    torch counts the changes of a tensor in place. An update is complete if it made as many changes as the update before
    it, and has not begun if it made none. This is known only if those of the update before it were counted for every
    weight that has a gradient, or if the optimizer is Adam or AdamW: their fused kernels change weights uncounted, but
    right after the step counters.

    Of the first two updates it is not known: before the first one the optimizer has no state to compare.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.parts = getattr(optimizer, "optimizers", [optimizer])
        self.is_called = False
        self._counts: Counts = []  # before the update at hand
        self._previous: Counts = []  # before the update before it

    def begin(self) -> None:
        """Note the state before an update."""
        self._previous, self._counts, self.is_called = self._counts, self._count(), False

    def step(self) -> None:
        """Note that `optimizer.step()` is called now."""
        self.is_called = True

    def progress(self) -> str:
        """Return NOT_BEGUN, COMPLETE or PARTIAL, of the update that began last."""
        if not self.is_called:
            return NOT_BEGUN
        usual, changes = _changes(self._previous, self._counts), _changes(self._counts, self._count())
        if usual is None or changes is None or not self._shows_in(usual):
            return PARTIAL
        return COMPLETE if changes == usual else PARTIAL if any(changes) else NOT_BEGUN

    def _parameters(self) -> list[torch.Tensor]:
        return [p for part in self.parts for group in part.param_groups for p in group["params"]]

    def _count(self) -> Counts:
        """Return a number for each parameter, and for each tensor and number in the optimizer's state.

        It runs at every update: 50 microseconds for a GPT-2.
        """
        states = [state for part in self.parts for state in part.state.values()]
        counts = [p._version for p in self._parameters()]
        return counts + [getattr(value, "_version", value) for state in states for value in state.values()]

    def _shows_in(self, changes: Counts) -> bool:
        """Return whether these changes of an update were counted for every weight that has a gradient."""
        if all(type(part) in (torch.optim.Adam, torch.optim.AdamW) for part in self.parts):
            return any(changes)
        parameters = self._parameters()
        return all(count for count, p in zip(changes, parameters, strict=False) if p.grad is not None)


def _changes(before: Counts, after: Counts) -> Counts | None:
    """Return the differences; None if they cannot be told, because something was added or is no number."""
    if len(before) != len(after):
        return None
    try:
        return [new - old for old, new in zip(before, after, strict=True)]
    except TypeError:
        return None
