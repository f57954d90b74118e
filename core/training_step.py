"""One update of the weights: micro-batches forward and backward, clipping, the optimizer's step."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import nn

from core.objective import Batch, Objective

# agree(mean loss of the micro-batches, grad_norm, metrics) -> a flag on the device that is not 0 where some rank finds
# the update unsound
Agree = Callable[[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]


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
    norm:      `norm(parameters) -> norm`, where the gradients are not clipped
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
        norm: Callable[..., torch.Tensor],
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
        self.norm = norm
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.grad_clip = grad_clip
        self.batch: Batch | None = None
        self.used: Batch | None = None  # the last micro-batch of the last update
        self.updates = 0  # made so far by this object, those left out included
        self.skips_on_device = getattr(optimizer, "_step_supports_amp_scaling", False) and not scaler.is_enabled()

    def prefetch(self) -> None:
        """Draw the first batch, unless a restored one is waiting."""
        if self.batch is None:
            self.batch = self.get_batch("train")

    def leave_out(self, updates: int) -> None:
        """Draw as many batches as `updates` updates take, and drop them and the one that was drawn ahead."""
        for _ in range(updates * self.gradient_accumulation_steps):
            self.batch = self.get_batch("train")

    def execute_step(self, agree: Agree | None = None) -> StepResult:
        """Make one update, unless the ranks agree that it is unsound, and return what it left behind."""
        self.prefetch()
        shares, reports = [], []  # of the update's loss; of the objective
        for micro_step in range(1, self.gradient_accumulation_steps + 1):
            with self.grad_sync(micro_step == self.gradient_accumulation_steps):
                with self.autocast:
                    output = self.objective(self.model, self.batch, train=True)
                    loss = output.loss / self.gradient_accumulation_steps
                # the next one, while a GPU is still busy with this one
                self.used, self.batch = self.batch, self.get_batch("train")
                shares.append(loss.detach())
                reports.append(output.metrics)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        grad_norm = None
        if self.grad_clip:
            self.scaler.unscale_(self.optimizer)  # the true gradients are clipped, not the scaled ones
            grad_norm = self.clip(self.model.parameters(), self.grad_clip)
        unsound = None
        if agree:
            norm = self.norm(self.model.parameters()) if grad_norm is None else grad_norm
            unsound = agree(torch.stack(shares).sum(), norm, _together(reports))
        self._update(unsound)
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        return StepResult(shares[-1], grad_norm, output.metrics)

    def _update(self, unsound: torch.Tensor | None) -> None:
        if unsound is not None and self.skips_on_device:
            # a fused optimizer leaves the update out by itself, as it does for a GradScaler: nobody waits for the flag
            self.optimizer.found_inf = (unsound != 0).float()  # type: ignore[attr-defined]
            self.optimizer.step()
            del self.optimizer.found_inf  # type: ignore[attr-defined]
        elif unsound is None or not unsound.item():
            self.scaler.step(self.optimizer)  # leaves the update out where scaled float16 gradients overflowed
            self.scaler.update()
        elif self.grad_clip:
            self.scaler.update()  # it has looked at these gradients


def _together(reports: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the last micro-batch's report; it is `finite` only if all of them were."""
    if "finite" not in reports[-1]:
        return reports[-1]
    return {**reports[-1], "finite": torch.stack([report["finite"].bool().all() for report in reports]).all()}
