"""One update of the weights: micro-batches forward and backward, clipping, the optimizer's step."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from core.batch import Batch
from core.checkpoint.update_watch import UpdateWatch
from core.machine.parallel import Replicated
from core.objective import Objective

# inspect(mean loss of the micro-batches, grad_norm, metrics) -> an int32 scalar on the device; not 0: skip the update
Inspect = Callable[[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]


class StepResult(NamedTuple):
    """The result of an update, still on the device: reading a tensor of it waits for the device.

    loss:        last micro-batch's loss, divided by `micro_steps` as for its backward pass
    grad_norm:   norm of all gradients before clipping; None if clipping is off
    metrics:     what the objective reported of the last micro-batch
    micro_steps: micro-batches of this process in the update
    mean_loss:   mean of the losses of these micro-batches
    """

    loss: torch.Tensor
    grad_norm: torch.Tensor | None
    metrics: dict[str, torch.Tensor]
    micro_steps: int
    mean_loss: torch.Tensor


class TrainingStep:
    """Makes one update at a time, and keeps the batch that was drawn ahead for the next one.

    parallel:  how the model is spread over processes: when gradients are averaged, and how their norm is computed
    grad_clip: maximum norm of the gradients; 0 disables clipping
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        get_batch: Callable[[str], Batch],
        parallel: Replicated | None = None,
        *,
        scaler: torch.amp.GradScaler | None = None,
        autocast: AbstractContextManager[Any] | None = None,
        gradient_accumulation_steps: int = 1,
        grad_clip: float = 1.0,
    ) -> None:
        self.parallel = parallel or Replicated()
        self._set_model(model)
        self.objective = objective
        self.optimizer = optimizer
        self.get_batch = get_batch
        self.scaler = scaler or torch.amp.GradScaler(enabled=False)
        self.autocast = autocast or nullcontext()
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.grad_clip = grad_clip
        self.batch: Batch | None = None
        self.used_batch: Batch | None = None  # the last micro-batch of the last update
        self.updates = 0  # made by this process, skipped ones included
        self.watch = UpdateWatch(optimizer)
        self.result: StepResult | None = None  # of the update at hand, from its last backward pass on
        self.is_updating = False  # the verdict or the optimizer is at work; `watch` says how far it came
        self.skips_on_device = getattr(optimizer, "_step_supports_amp_scaling", False) and not self.scaler.is_enabled()

    def prefetch(self) -> None:
        """Draw the first batch, unless one was restored."""
        if self.batch is None:
            self.batch = self.get_batch("train")

    def wrap_again(self) -> None:
        """Replace the model's wrapper, if it has one: other parameters have become trainable. For every rank alike."""
        inner = self.parallel.unwrap(self.model)
        if inner is not self.model:
            self._set_model(self.parallel.wrap(inner))

    def _set_model(self, model: nn.Module) -> None:
        self.model = model
        self.grad_sync = self.parallel.grad_sync(model)

    def skip_batches(self, updates: int) -> None:
        """Drop the batches of the next `updates` updates, beginning with the one drawn ahead."""
        for _ in range(updates * self.gradient_accumulation_steps):
            self.batch = self.get_batch("train")

    def execute_step(self, inspect: Inspect | None = None) -> StepResult:
        """Make one update, unless `inspect` returns a flag that skips it."""
        self.prefetch()
        losses, reports = [], []
        for micro_step in range(1, self.gradient_accumulation_steps + 1):
            with self.grad_sync(micro_step == self.gradient_accumulation_steps):
                with self.autocast:
                    output = self.objective(self.model, self.batch, train=True)
                    loss = output.loss / self.gradient_accumulation_steps
                # the next one, while a GPU is still busy with this one
                self.used_batch, self.batch = self.batch, self.get_batch("train")
                reported = loss if output.reported is None else output.reported / self.gradient_accumulation_steps
                losses.append(reported.detach())
                reports.append(output.metrics)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        grad_norm = None
        if self.grad_clip:
            self.scaler.unscale_(self.optimizer)  # the true gradients are clipped, not the scaled ones
            grad_norm = self.parallel.clip(self.model.parameters(), self.grad_clip)
        micro_steps, mean_loss = self.gradient_accumulation_steps, torch.stack(losses).sum()
        self.result = result = StepResult(losses[-1], grad_norm, output.metrics, micro_steps, mean_loss)
        self.watch.begin()
        self.is_updating, skip = True, None
        if inspect:
            norm = self.parallel.norm(self.model.parameters()) if grad_norm is None else grad_norm
            skip = inspect(mean_loss, norm, _merge(reports))
        self._update(skip)
        self._end_update()
        return result

    def complete_update(self) -> StepResult:
        """End an update whose weights are changed, but in which an error came after that. Return its result."""
        assert self.result is not None
        self.scaler.update()
        self._end_update()
        return self.result

    def _end_update(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        self.is_updating = False

    def _update(self, skip: torch.Tensor | None) -> None:
        if skip is not None and self.skips_on_device:
            self.watch.step()
            # a fused optimizer skips the update on the device, as it does for a GradScaler: nothing waits for the flag
            self.optimizer.found_inf = (skip != 0).float()  # type: ignore[attr-defined]
            self.optimizer.step()
            del self.optimizer.found_inf  # type: ignore[attr-defined]
        elif skip is None or not skip.item():
            self.watch.step()
            self.scaler.step(self.optimizer)  # skips the update if scaled float16 gradients overflowed
            self.scaler.update()
        elif self.grad_clip:
            self.scaler.update()  # `unscale_` has looked at these gradients


def _merge(reports: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the last micro-batch's metrics; `finite` only if all micro-batches were."""
    if "finite" not in reports[-1]:
        return reports[-1]
    return {**reports[-1], "finite": torch.stack([report["finite"].bool().all() for report in reports]).all()}
