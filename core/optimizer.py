"""Restoring an optimizer. Making one is the model's business: `configure_optimizers`, as in nanoGPT."""

from typing import Any

import torch

from core.errors import CheckpointError

KERNELS = ("fused", "foreach", "capturable")  # how this device computes an update, not what


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any] | None) -> None:
    """Load a saved state; moments of a tensor that was cropped since (block_size) are cropped with it.

    As in nanoGPT, the saved groups' settings (weight_decay, betas) come with the state. Raises CheckpointError when
    the state belongs to other parameters; the optimizer is then as it was.
    """
    if not state:
        raise CheckpointError("the checkpoint lacks the optimizer: it can be sampled from, but not resumed")
    try:
        _load(optimizer, state)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint's optimizer state is damaged ({type(error).__name__}: {error})"
        ) from None


def _load(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    saved_sizes = [len(group["params"]) for group in state["param_groups"]]
    own_sizes = [len(group["params"]) for group in optimizer.param_groups]
    if saved_sizes != own_sizes:
        raise CheckpointError(
            f"the checkpoint's optimizer has groups of {saved_sizes} tensors, this model's has {own_sizes}: "
            "it was saved for another model"
        )
    moments = {key: _cropped(saved, parameters[key]) for key, saved in state["state"].items()}
    groups = [
        {**saved, **{name: own[name] for name in KERNELS if name in own}}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "state": moments, "param_groups": groups})


def _cropped(moments: dict[str, Any], parameter: torch.Tensor) -> dict[str, Any]:
    """Cut every moment that has the parameter's number of dimensions down to its shape."""
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
