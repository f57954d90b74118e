"""How a model is spread over processes: here, one copy in each."""

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from core.checkpoint.format import handle_state_dict_prefixes
from core.optimizer import load_optimizer_state

# a model's buffers are tables, equal on all ranks; torch 2.13 renamed the argument that keeps DDP from sending them
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
SYNC_BUFFERS = "forward_sync_buffers" if _RENAMED else "broadcast_buffers"


class Replicated:
    """Every process holds the model, and gradients are averaged. A single process has nothing to do.

    Another strategy offers the same attribute and methods. `shard`, `state_dict` and `load_state_dict` are called on
    every rank.

    evaluates_on_every_rank: an evaluation needs all ranks; here rank 0 evaluates alone, as in nanoGPT
    """

    evaluates_on_every_rank = False

    def __init__(self, distributed: bool = False, device: torch.device | None = None) -> None:
        self.distributed = distributed
        self.device = device or torch.device("cpu")

    def shard(self, model: nn.Module) -> nn.Module:
        """Return the model whose parameters the optimizer is made of; before compilation."""
        return model

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model as the training step calls it; after compilation. All ranks then hold rank 0's weights.

        A model that has `leaves_weights_unused` set may leave weights without a gradient.
        """
        if not self.distributed:
            return model
        settings: dict[str, Any] = {SYNC_BUFFERS: False}
        if getattr(model, "leaves_weights_unused", False):
            settings["find_unused_parameters"] = True
        if self.device.type == "cuda":
            settings["device_ids"] = [self.device]
        return DistributedDataParallel(model, **settings)

    def unwrap(self, model: nn.Module) -> nn.Module:
        """Return the model as evaluations call it."""
        return model.module if isinstance(model, DistributedDataParallel) else model

    def grad_sync(self, model: nn.Module) -> Callable[[bool], AbstractContextManager[Any]]:
        """Return `context(last)`: gradients are averaged in the last micro-batch of an update only."""
        if isinstance(model, DistributedDataParallel):
            return lambda last: nullcontext() if last else model.no_sync()
        return lambda last: nullcontext()

    def clip(self, parameters: Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
        """Scale the gradients down to a joint norm of at most `max_norm`. Return the norm before."""
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def norm(self, parameters: Iterable[torch.Tensor]) -> torch.Tensor:
        """Return the joint norm of the gradients, and leave them as they are."""
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])

    def state_dict(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the state of model and optimizer under nanoGPT's keys."""
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    def load_state_dict(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or only its `optimizer`. Afterwards all ranks hold rank 0's weights.

        Raises CheckpointError if the optimizer's state does not fit.
        """
        if "model" in state:
            model.load_state_dict(handle_state_dict_prefixes(state["model"], like=model.state_dict()))
            self.broadcast_parameters(model)
        names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        load_optimizer_state(optimizer, state.get("optimizer"), names)

    def broadcast_parameters(self, model: nn.Module) -> None:
        """Broadcast rank 0's weights to all ranks; not needed before `wrap`, as DistributedDataParallel does it."""
        if self.distributed:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)
