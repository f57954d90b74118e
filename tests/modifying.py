"""A stand-in for the loss modifier pipeline, for tests of its callers."""

from typing import Any

import torch


class Modifying:
    """Changes the loss with one function and counts the calls."""

    inputs: torch.Tensor | None = None

    def __init__(self, modify: Any) -> None:
        self.change, self.calls = modify, 0

    def modify(self, *arguments: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.change(*arguments)

    def metrics(self) -> dict[str, Any]:
        return {"Modifying.calls": torch.tensor(self.calls)}

    def state_dict(self) -> dict[str, int]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]
