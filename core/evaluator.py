"""The loss of the model as it is now, on both splits."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from core.objective import Batch, Objective

SPLITS = ("train", "val")


class Evaluator:
    """Averages the loss over `eval_iters` fresh batches of a split, dropout and loss modifiers off.

    rng: `rng() -> context`; random draws are made inside it. By default they are the next ones of the generators that
        training uses, as in nanoGPT
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        get_batch: Callable[[str], Batch],
        *,
        eval_iters: int,
        autocast: AbstractContextManager[Any],
        rng: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model = model
        self.objective = objective
        self.get_batch = get_batch
        self.eval_iters = eval_iters
        self.autocast = autocast
        self.rng = rng

    def evaluate(self, split: str) -> torch.Tensor:
        """Return the mean loss of a split as a float32 scalar on the CPU."""
        return self.measure(split)[split]

    def evaluate_splits(self) -> dict[str, torch.Tensor]:
        """Return the mean loss of each split, training data first, and what the objective measures beside it."""
        with self.rng():
            measured = [self.measure(split) for split in SPLITS]
        return {name: value for part in measured for name, value in part.items()}

    @torch.no_grad()
    def measure(self, split: str) -> dict[str, torch.Tensor]:
        """Return the mean loss of a split under the split's name, and what the objective measures beside it."""
        losses, meter = torch.zeros(self.eval_iters), self.objective.meter(split)
        self.model.eval()
        try:
            for i in range(self.eval_iters):
                batch = self.get_batch(split)
                with self.autocast:
                    output = self.objective(self.model, batch, train=False)
                losses[i] = output.loss.item()
                if meter is not None:
                    meter.add(batch, output.details)
        finally:
            self.model.train()  # also when the evaluation is abandoned
        beside = meter.result() if meter is not None else {}
        return {split: losses.mean(), **{name: torch.tensor(value) for name, value in beside.items()}}
