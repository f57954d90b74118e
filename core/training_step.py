"""One update of the weights: micro-batches forward and backward, clipping, the optimizer's step."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import nn

from core.objective import Batch, Objective


class StepResult(NamedTuple):
    """What an update leaves behind, still on the device: reading any of it waits for the device.

    loss:      last micro-batch's loss, divided by the number of micro-batches as for its backward pass
    grad_norm: norm of all gradients before clipping; None where clipping is off
    metrics:   what the objective reported of the last micro-batch
    """

    loss: torch.Tensor
    grad_norm: torch.Tensor | None
    metrics: dict[str, torch.Tensor]


class TrainingStep:
    """Makes one update at a time, and holds the batch that was drawn ahead for the next one.

    grad_sync: `grad_sync(last) -> context` for a micro-batch; gradients are exchanged only in the last one's
    clip:      `clip(parameters, max_norm) -> norm`
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        get_batch: Callable[[str], Batch],
        *,
        scaler: torch.amp.GradScaler,
        autocast: AbstractContextManager[Any],
        grad_sync: Callable[[bool], AbstractContextManager[Any]],
        clip: Callable[..., torch.Tensor],
        gradient_accumulation_steps: int,
        grad_clip: float,
    ) -> None:
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.get_batch = get_batch
        self.scaler = scaler
        self.autocast = autocast
        self.grad_sync = grad_sync
        self.clip = clip
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.grad_clip = grad_clip
        self.batch: Batch | None = None
        self.updates = 0  # made so far by this object

    def prefetch(self) -> None:
        """Draw the first batch, unless a restored one is waiting."""
        if self.batch is None:
            self.batch = self.get_batch("train")

    def execute_step(self) -> StepResult:
        """Make one update and return what it left behind."""
        self.prefetch()
        for micro_step in range(1, self.gradient_accumulation_steps + 1):
            with self.grad_sync(micro_step == self.gradient_accumulation_steps):
                with self.autocast:
                    output = self.objective(self.model, self.batch, train=True)
                    loss = output.loss / self.gradient_accumulation_steps
                self.batch = self.get_batch("train")  # the next one, while a GPU is still busy with this one
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        grad_norm = None
        if self.grad_clip:
            self.scaler.unscale_(self.optimizer)  # the true gradients are clipped, not the scaled ones
            grad_norm = self.clip(self.model.parameters(), self.grad_clip)
        self.scaler.step(self.optimizer)  # leaves the update out where scaled float16 gradients overflowed
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        return StepResult(loss.detach(), grad_norm, output.metrics)
