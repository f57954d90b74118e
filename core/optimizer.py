"""Restoring an optimizer. The model makes it: `configure_optimizers`, as in nanoGPT."""

from typing import Any

import torch

from core.errors import CheckpointError

KERNELS = ("fused", "foreach", "capturable")  # how this device computes an update; the result is the same
NOT_RESTORED = (*KERNELS, "is_head")  # is_head: which of a schedule's rates a group has
UNFROZEN = "unfrozen"  # marks a group whose parameters were frozen when the optimizer was made


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any] | None) -> None:
    """Load a saved state; moments of a tensor that was cropped since (block_size) are cropped with it.

    As in nanoGPT, the saved groups' settings (weight_decay, betas, lr_factor) come with the state. A state from before
    an unfreezing undoes it: groups marked `unfrozen` that the state lacks are dropped, and their parameters frozen.

    An optimizer that consists of several has them in its attribute `optimizers`, and their states, in the same order,
    under `optimizers` in its own state.

    Raises CheckpointError if the state belongs to other parameters; the optimizer is then unchanged.
    """
    if not state:
        raise CheckpointError("the checkpoint lacks the optimizer: it can be sampled from, but not resumed")
    try:
        parts = getattr(optimizer, "optimizers", None)
        parts, states = (parts, state["optimizers"]) if parts else ([optimizer], [state])
        # all are checked before the first one changes
        fitted = [_fitted(part, part_state) for part, part_state in zip(parts, states, strict=True)]
        for part, part_state in zip(parts, fitted, strict=True):
            _load(part, part_state)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint's optimizer state is damaged ({type(error).__name__}: {error})"
        ) from None


def moments(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return all tensors in an optimizer's state, or in those of the optimizers it consists of."""
    states = [state for part in getattr(optimizer, "optimizers", [optimizer]) for state in part.state.values()]
    return [value for state in states for value in state.values() if torch.is_tensor(value)]


def _fitted(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state in the form that the optimizer can load. Raises CheckpointError if it is another model's."""
    kept = list(optimizer.param_groups)
    while len(kept) > len(state["param_groups"]) and kept[-1].get(UNFROZEN):
        kept.pop()
    parameters = [parameter for group in kept for parameter in group["params"]]
    saved_sizes = [len(group["params"]) for group in state["param_groups"]]
    own_sizes = [len(group["params"]) for group in kept]
    if saved_sizes != own_sizes:
        raise CheckpointError(
            f"the checkpoint's optimizer has groups of {saved_sizes} tensors, this model's has {own_sizes}: "
            "it was saved for another model"
        )
    moments = {key: _cropped(saved, parameters[key]) for key, saved in state["state"].items()}
    groups = [
        {**saved, **{name: own[name] for name in NOT_RESTORED if name in own}}
        for saved, own in zip(state["param_groups"], kept, strict=True)
    ]
    return {**state, "state": moments, "param_groups": groups}


def _load(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a fitted state; freeze the parameters of groups that it lacks."""
    count = len(state["param_groups"])
    for group in optimizer.param_groups[count:]:
        for parameter in group["params"]:
            parameter.requires_grad_(False)
            parameter.grad = None
    del optimizer.param_groups[count:]
    optimizer.load_state_dict(state)


def _cropped(moments: dict[str, Any], parameter: torch.Tensor) -> dict[str, Any]:
    """Return the moments, those that have the parameter's number of dimensions cropped to its shape."""
    window = tuple(slice(size) for size in parameter.shape)
    cropped = {}
    for name, value in moments.items():
        is_moment = torch.is_tensor(value) and value.dim() == parameter.dim() > 0
        cropped[name] = value[window].clone() if is_moment and value.shape != parameter.shape else value
        if is_moment and cropped[name].shape != parameter.shape:
            raise CheckpointError(
                f"the checkpoint's optimizer holds {name} of shape {tuple(value.shape)} for a tensor of shape "
                f"{tuple(parameter.shape)}: it was saved for another model"
            )
    return cropped
