"""Restoring an optimizer, and making one for a model without `configure_optimizers`, which makes nanoGPT's."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from core.checkpoint.format import handle_state_dict_prefixes
from core.errors import CheckpointError

log = logging.getLogger("coregpt")

Groups = list[list[torch.Tensor]]  # the parameters of each group of an optimizer
EMBEDDINGS = ("wte.weight", "wpe.weight")  # nanoGPT's; before May 2023 they did not decay
ADAM = {"step", "exp_avg", "exp_avg_sq"}  # what Adam and AdamW keep of every parameter
ROWS, FACTORED = "row_var", ("row_var", "col_var")  # what Adafactor keeps of a matrix: a column and a row of sums
KERNELS = ("fused", "foreach", "capturable")  # how this device computes an update; the result is the same
NOT_RESTORED = (*KERNELS, "is_head")  # is_head: which of a schedule's rates a group has
UNFROZEN = "unfrozen"  # marks a group whose parameters were frozen when the optimizer was made


def make_adamw(
    model: nn.Module, weight_decay: float, learning_rate: float, betas: tuple[float, float], fused: bool = False
) -> torch.optim.AdamW:
    """Return nanoGPT's optimizer for any model: trainable tensors of two or more dimensions decay.

    fused: use the fused kernel, which rounds differently
    """
    groups = _groups(model, weight_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, **({"fused": True} if fused else {}))


def make_adafactor(model: nn.Module, weight_decay: float, learning_rate: float) -> torch.optim.Adafactor:
    """Return Adafactor for any model, with the groups of `make_adamw`: of a matrix it keeps a row and a column.

    Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235
    """
    return torch.optim.Adafactor(_groups(model, weight_decay), lr=learning_rate)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: tensors of two or more dimensions, which decay, and others."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = {"params": [parameter for parameter in trained if parameter.dim() >= 2], "weight_decay": weight_decay}
    others = {"params": [parameter for parameter in trained if parameter.dim() < 2], "weight_decay": 0.0}
    return [group for group in (decayed, others) if group["params"]]


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any] | None,
    names: Mapping[torch.Tensor, str] | None = None,
) -> None:
    """Load a saved state; moments of a tensor that was cropped since (block_size) are cropped with it.

    names: of the model's parameters; with them, the moments of a nanoGPT before May 2023, which sorted the parameters
           by name, go to the right ones

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
        fitted = [_fitted(part, part_state, names or {}) for part, part_state in zip(parts, states, strict=True)]
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


def _fitted(
    optimizer: torch.optim.Optimizer, state: dict[str, Any], names: Mapping[torch.Tensor, str]
) -> dict[str, Any]:
    """Return a saved state in the form that the optimizer can load. Raises CheckpointError if it is another model's."""
    kept = list(optimizer.param_groups)
    while len(kept) > len(state["param_groups"]) and kept[-1].get(UNFROZEN):
        kept.pop()
    own: Groups = [group["params"] for group in kept]
    saved_as = _saved_order(own, state, names)
    keys = [key for group in state["param_groups"] for key in group["params"]]
    of_key = dict(zip(keys, (parameter for group in saved_as for parameter in group), strict=True))
    place = {parameter: index for index, parameter in enumerate(parameter for group in own for parameter in group)}
    moments = {place[of_key[key]]: _cropped(saved, of_key[key]) for key, saved in state["state"].items()}
    other = [saved for saved in moments.values() if saved and ADAM - set(saved)]
    if other and isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        raise CheckpointError(
            f"the checkpoint's optimizer is not AdamW: it holds {', '.join(other[0])}, wanted {', '.join(sorted(ADAM))}"
        )
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        for saved in state["param_groups"]:
            _require_settings(saved)
        needed = {"max_exp_avg_sq"} if any(saved.get("amsgrad") for saved in state["param_groups"]) else set[str]()
        if wrong := [saved for saved in moments.values() if saved and (needed - set(saved) or not saved["step"] >= 0)]:
            raise ValueError(f"a tensor has step={wrong[0]['step']}, and holds {', '.join(wrong[0])}")
    groups = [
        {
            **saved,
            **{name: group[name] for name in NOT_RESTORED if name in group},
            "params": [place[parameter] for parameter in group["params"]],
        }
        for saved, group in zip(state["param_groups"], kept, strict=True)
    ]
    return {**state, "state": moments, "param_groups": groups}


def _require_settings(group: dict[str, Any]) -> None:
    """Raise ValueError unless the settings of AdamW in a saved group are numbers that it can work with."""
    settings = {"lr": group["lr"], "eps": group["eps"], "weight_decay": group["weight_decay"]}
    first, second = group["betas"]
    for name, value in {**settings, "beta1": first, "beta2": second}.items():
        if not 0 <= float(value) < (1 if name in ("beta1", "beta2") else math.inf):
            raise ValueError(f"{name}={value}")


def _saved_order(own: Groups, state: dict[str, Any], names: Mapping[torch.Tensor, str]) -> Groups:
    """Return the parameters in the groups and the order of a saved state: ours, or that of an older nanoGPT.

    Raises CheckpointError if the groups have other sizes.
    """
    saved_sizes = [len(group["params"]) for group in state["param_groups"]]
    if named := _named_order(own, state, names):
        return named
    orders = [order for order in (own, *_older_orders(own, names)) if [len(group) for group in order] == saved_sizes]
    if not orders:
        raise CheckpointError(
            f"the checkpoint's optimizer has groups of {saved_sizes} tensors, this model's has "
            f"{[len(group) for group in own]}: it was saved for another model"
        )
    chosen = min(orders, key=lambda order: _other_shapes(order, state))  # the first of equal ones
    if chosen is not own:
        log.info(
            "resume: the optimizer's state is of an older nanoGPT (before May 2023), with the parameters sorted by "
            "name: moments are assigned by name"
            + ("" if len(chosen[0]) == len(own[0]) else ", and weight decay applies to the embeddings from now on")
        )
    return chosen


def _named_order(own: Groups, state: dict[str, Any], names: Mapping[torch.Tensor, str]) -> Groups | None:
    """Return the parameters in the order of a state with names in place of numbers, as FSDP saves it; else None."""
    keys = [group["params"] for group in state["param_groups"]]
    if not names or not any(keys) or not all(isinstance(key, str) for group in keys for key in group):
        return None
    of_name = handle_state_dict_prefixes({names[parameter]: parameter for group in own for parameter in group})
    saved = [list(handle_state_dict_prefixes(dict.fromkeys(group))) for group in keys]
    if {name for group in saved for name in group} != set(of_name):
        raise CheckpointError("the checkpoint's optimizer has tensors of other names: it was saved for another model")
    return [[of_name[name] for name in group] for group in saved]


def _older_orders(own: Groups, names: Mapping[torch.Tensor, str]) -> list[Groups]:
    """Return the groups of nanoGPT before May 2023: sorted by name, and with the embeddings among those not decayed."""
    if len(own) != 2 or not all(parameter in names for group in own for parameter in group):
        return []
    embeddings = [parameter for parameter in own[0] if names[parameter].endswith(EMBEDDINGS)]
    matrices = [parameter for parameter in own[0] if not names[parameter].endswith(EMBEDDINGS)]
    return [
        [sorted(group, key=names.__getitem__) for group in order] for order in (own, [matrices, embeddings + own[1]])
    ]


def _other_shapes(order: Groups, state: dict[str, Any]) -> int:
    """Return how many moments have another shape than their parameter, if the state is in this order."""
    keys = [key for group in state["param_groups"] for key in group["params"]]
    parameters = [parameter for group in order for parameter in group]
    saved = [
        (state["state"].get(key, {}).get("exp_avg"), parameter) for key, parameter in zip(keys, parameters, strict=True)
    ]
    return sum(moment is not None and moment.shape != parameter.shape for moment, parameter in saved)


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
    """Return the moments, those of more rows than the parameter cropped to its rows."""
    cropped = {}
    for name, value in moments.items():
        if name in FACTORED:
            cropped[name] = value[: len(parameter)].clone() if name == ROWS else value
            continue
        is_moment = torch.is_tensor(value) and value.dim() == parameter.dim() > 0
        has_more_rows = is_moment and value.shape[1:] == parameter.shape[1:] and len(value) > len(parameter)
        cropped[name] = value[: len(parameter)].clone() if has_more_rows else value
        is_adam = name in ADAM and name != "step"
        if (is_moment or is_adam) and cropped[name].shape != parameter.shape:
            raise CheckpointError(
                f"the checkpoint's optimizer holds {name} of shape {tuple(value.shape)} for a tensor of shape "
                f"{tuple(parameter.shape)}: it was saved for another model"
            )
    return cropped
