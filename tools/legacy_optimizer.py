"""Converts the AdamW state of the train_run line and the core line.

The parameters of an optimizer are numbered. Their order in a legacy optimizer is that of the legacy weights; which of
them it holds depends on the phase of the run:

    all       all parameters
    frozen    only the heads: the transformer is frozen
    unfrozen  the heads, then the parameters of the transformer, which was frozen at first
"""

from typing import Any

import torch

from core.optimizer import UNFROZEN
from tools.legacy_model import LM_HEAD, RENAMED, TOKENS, is_tied

State = dict[str, Any]
PHASES = ("all", "frozen", "unfrozen")


def convert_optimizer(old: State, state: State, args: State, model: Any) -> tuple[State, list[str]]:
    """Return AdamW's state for our model, and a note if the transformer was frozen.

    old:   the legacy checkpoint
    state: the legacy weights
    args:  our model_args
    model: our model; only the names and shapes of its parameters are used

    Raises ValueError with the reason if the state cannot be converted, and other exceptions if it is damaged.
    """
    saved, old_args = old.get("optimizer"), old["model_args"]
    if not saved:
        raise ValueError("the checkpoint has none")
    if old_args.get("share_main_matrices"):
        raise ValueError("its layers share their matrices, here each layer has its own")
    phase, names = _match_groups(saved["param_groups"], state)
    moments = _moments_by_name(saved, names)
    if "cls_embedding" not in state and TOKENS in moments and "cls_token_id" in args:
        moments["cls_embedding"] = _moments_of_row(moments[TOKENS], args["cls_token_id"])
    parameters = dict(model.named_parameters())
    _require_shapes(moments, parameters)

    if phase == "all" and old_args.get("freeze_transformer"):
        phase = "unfrozen"  # the train_run line makes a new optimizer of all parameters when it unfreezes
    lr_factor = min(float(old_args.get("unfreeze_lr_multiplier", 1.0)), 1.0) if phase == "unfrozen" else None
    groups = _groups({name: tensor.dim() for name, tensor in parameters.items()}, phase, tied="mode" not in args)
    numbers = {name: number for number, name in enumerate(name for group in groups for name in group)}
    optimizer = {
        "state": {number: moments[name] for name, number in numbers.items() if name in moments},
        "param_groups": _param_groups(saved["param_groups"][0], groups, numbers, parameters, lr_factor),
    }
    return optimizer, _notes(phase)


def _match_groups(param_groups: list[State], state: State) -> tuple[str, list[list[str]]]:
    """Return the phase in which a legacy optimizer was saved, and the names of the parameters in each of its groups."""
    dims = {name: tensor.dim() for name, tensor in state.items() if name != LM_HEAD or not is_tied(state)}
    sizes = [len(group["params"]) for group in param_groups]
    for phase in PHASES:
        names = _groups(dims, phase, tied=is_tied(state))
        if [len(group) for group in names] == sizes:
            return phase, names
    raise ValueError(f"it has groups of {sizes} tensors, which do not fit this model")


def _groups(dims: dict[str, int], phase: str, tied: bool) -> list[list[str]]:
    """Return the names in each of AdamW's groups: with and without weight decay, then the same of unfrozen parameters.

    dims: number of dimensions of each parameter, in the order of the model
    """
    heads = [name for name in dims if not name.startswith("transformer.") or (tied and name == TOKENS)]
    first = list(dims) if phase == "all" else heads
    later = [name for name in dims if name not in first] if phase == "unfrozen" else []
    groups = [
        [name for name in names if (dims[name] >= 2) == decays] for names in (first, later) for decays in (True, False)
    ]
    return groups[:2] + [group for group in groups[2:] if group]


def _moments_by_name(saved: State, names: list[list[str]]) -> dict[str, State]:
    """Return AdamW's state of each parameter under our names."""
    return {
        RENAMED.get(name, name): saved["state"][index]
        for group, group_names in zip(saved["param_groups"], names, strict=True)
        for index, name in zip(group["params"], group_names, strict=True)
        if index in saved["state"]
    }


def _moments_of_row(moments: State, row: int) -> State:
    """Return AdamW's state of one row of an embedding."""
    return {
        key: value[row].clone() if torch.is_tensor(value) and value.dim() == 2 else value
        for key, value in moments.items()
    }


def _require_shapes(moments: dict[str, State], parameters: dict[str, torch.nn.Parameter]) -> None:
    for name, state in moments.items():
        if name in parameters and (shape := state["exp_avg"].shape) != parameters[name].shape:
            wanted = tuple(parameters[name].shape)
            raise ValueError(f"its exp_avg of {name} has shape {tuple(shape)}, the tensor {wanted}")


def _param_groups(
    settings: State,
    groups: list[list[str]],
    numbers: dict[str, int],
    parameters: dict[str, torch.nn.Parameter],
    lr_factor: float | None,
) -> list[State]:
    """Return AdamW's param_groups for our model. settings: those of the legacy optimizer's first group"""
    factor = {} if lr_factor is None else {"lr_factor": lr_factor}
    return [
        {
            **settings,
            **factor,
            "weight_decay": settings["weight_decay"] if _decays(place, names, parameters) else 0.0,
            "params": [numbers[name] for name in names],
            **({UNFROZEN: True} if place >= 2 else {}),
        }
        for place, names in enumerate(groups)
    ]


def _decays(place: int, names: list[str], parameters: dict[str, torch.nn.Parameter]) -> bool:
    """Return whether the group at this place has weight decay; the second one never has, and may be empty."""
    return place != 1 and all(parameters[name].dim() >= 2 for name in names)


def _notes(phase: str) -> list[str]:
    if phase == "all":
        return []
    verb = "is" if phase == "frozen" else "was"
    return [f"the transformer {verb} frozen: resume with --freeze_transformer=True and the same unfreeze_at_iteration"]
