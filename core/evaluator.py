"""The loss of the model as it is now, on both splits."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from core.batch import Batch
from core.losses import SPLITS
from core.objective import Objective
from core.preemption import Interrupted

Measured = dict[str, torch.Tensor]
# on_ranks(evaluation) calls it on the ranks it needs, and returns the result on every rank; None if a signal ended it
RunEvaluation = Callable[[Callable[[], Measured]], Measured | None]
MeasureSplit = Callable[[nn.Module, str], dict[str, float]]


class Evaluator:
    """Averages the loss over `eval_iters` batches of a split, dropout and loss modifiers off.

    rng:     `rng() -> context`; random draws are made inside it. By default they are the next ones of the generators
             that training uses, as in nanoGPT
    measure: `measure(model, split)` returns further metrics by the name they are logged under, such as the quality of
             generated text. It is called after the split's loss, in evaluation mode without gradients
    on_ranks: calls an evaluation on the ranks that it needs; by default in this process
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        get_batch: Callable[[str], Batch],
        *,
        eval_iters: int,
        autocast: AbstractContextManager[Any] | None = None,
        rng: Callable[[], AbstractContextManager[Any]] = nullcontext,
        measure: MeasureSplit | None = None,
        on_ranks: RunEvaluation = lambda evaluation: evaluation(),
    ) -> None:
        self.model = model
        self.objective = objective
        self.get_batch = get_batch
        self.eval_iters = eval_iters
        self.autocast = autocast or nullcontext()
        self.rng = rng
        self.measure = measure
        self.on_ranks = on_ranks

    def evaluate(self, split: str = "val") -> torch.Tensor:
        """Return the mean loss of a split as a float32 scalar on the CPU."""
        return self.measure_split(split)[split]

    def evaluate_splits(self) -> Measured:
        """Return the mean loss of each split, training data first, and the further metrics, equal on all ranks.

        Raises Interrupted, on all ranks, if a signal ended the evaluation.
        """
        measured = self.on_ranks(self.measure_splits)
        if measured is None:
            raise Interrupted("a signal in an evaluation")
        return measured

    def measure_splits(self) -> Measured:
        """Return the mean loss of each split and the further metrics, as this process measures them."""
        with self.rng():
            measured = [self.measure_split(split) for split in SPLITS]
        return {name: value for part in measured for name, value in part.items()}

    @torch.no_grad()
    def measure_split(self, split: str) -> Measured:
        """Return the mean loss of a split under the split's name, and the further metrics of this split."""
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
            metrics = meter.result() if meter is not None else {}
            if self.measure is not None:
                metrics = {**metrics, **self.measure(self.model, split)}
        finally:
            self.model.train()  # also after an interruption
        return {split: losses.mean(), **{name: torch.tensor(value) for name, value in metrics.items()}}
