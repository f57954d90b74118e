"""How a model is spread over processes: here, one whole copy in each."""

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

# a model's buffers are tables, alike on all ranks; torch 2.13 renamed what keeps them from being sent at each step
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
SYNC_BUFFERS = "forward_sync_buffers" if _RENAMED else "broadcast_buffers"


class Replicated:
    """Every process holds the whole model, and gradients are averaged; a single process has nothing to do.

    Other ways to spread a model offer the same methods: `wrap`, `unwrap`, `grad_sync`, `clip`, `norm`,
    `broadcast_parameters`, `state_dict`.
    """

    def __init__(self, distributed: bool, device: torch.device) -> None:
        self.distributed = distributed
        self.device = device

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model as the training step calls it; all ranks then hold rank 0's weights."""
        if not self.distributed:
            return model
        settings: dict[str, Any] = {SYNC_BUFFERS: False}
        if self.device.type == "cuda":
            settings["device_ids"] = [self.device]
        return DistributedDataParallel(model, **settings)

    def unwrap(self, model: nn.Module) -> nn.Module:
        """Return the model inside, for evaluation on one rank alone."""
        return model.module if isinstance(model, DistributedDataParallel) else model

    def grad_sync(self, model: nn.Module) -> Callable[[bool], AbstractContextManager[Any]]:
        """Return `context(last)`: gradients are averaged in the last micro-batch of an update, and only there."""
        if isinstance(model, DistributedDataParallel):
            return lambda last: nullcontext() if last else model.no_sync()
        return lambda last: nullcontext()

    def clip(self, parameters: Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
        """Scale the gradients down to a joint norm of `max_norm` and return the norm they had."""
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def norm(self, parameters: Iterable[torch.Tensor]) -> torch.Tensor:
        """Return the joint norm of the gradients, and leave them as they are."""
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def broadcast_parameters(self, model: nn.Module) -> None:
        """Give all ranks rank 0's weights once more, when they were loaded into a model that is wrapped already."""
        if self.distributed:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)

    def state_dict(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the whole state of model and optimizer, under nanoGPT's keys."""
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
