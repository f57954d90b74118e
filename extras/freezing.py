"""Freezing of parameters, and the optimizer groups of heads and of unfrozen parameters.

The transformer's parameters are named `transformer.*`. All others belong to heads and always train. A parameter that
both share, such as the token embedding tied to lm_head, belongs to the head: it is never frozen.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase

import torch
from torch import nn

from core.errors import ConfigError
from core.optimizer import UNFROZEN

BODY = "transformer."


def train_only(model: nn.Module, patterns: str) -> None:
    """Freeze the transformer except for the parameters that match one of the comma-separated patterns.

    A pattern is a shell pattern: `*` any text, `?` one character, `[8-9]` one of these (no comma inside). It matches
    the name of a parameter or of a module that holds it, with or without the leading `transformer.`: `h.[8-9],ln_f`
    trains layers 8 and 9 and the last norm. Raises ConfigError if a pattern matches no parameter.
    """
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for pattern in wanted:
        if not any(_matches(name, pattern) for name in names):
            examples = ", ".join(name.removeprefix(BODY) for name in (*names[:3], names[len(names) // 2], names[-1]))
            raise ConfigError(
                f"trainable pattern {pattern!r} matches no parameter: wanted patterns like h.[8-9].*,ln_f.* "
                f"that match some of this model's {len(names)} names, such as {examples}"
            )
    for name, parameter in _body(model):
        parameter.requires_grad_(any(_matches(name, pattern) for pattern in wanted))


def freeze_transformer(model: nn.Module) -> None:
    """Freeze the transformer; heads, and parameters tied to them, continue to train."""
    for _, parameter in _body(model):
        parameter.requires_grad_(False)


def unfreeze_transformer(model: nn.Module) -> None:
    """Unfreeze all parameters of the transformer."""
    for _, parameter in _body(model):
        parameter.requires_grad_(True)


def is_frozen(model: nn.Module) -> bool:
    """Return whether any parameter of the transformer is frozen."""
    return any(not parameter.requires_grad for _, parameter in _body(model))


def extend_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, weight_decay: float) -> int:
    """Add the trainable parameters that the optimizer lacks, in new groups; return how many were added.

    As in the model's `configure_optimizers`, tensors of two or more dimensions decay and the others do not. All other
    settings are those of the first group. Existing groups and their state do not change. The new groups are marked
    `unfrozen`, so that loading an earlier state drops them.
    """
    known = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    new = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in known]
    own = ("params", "param_names", "lr_factor", "is_head")  # not copied from the first group
    settings = {name: value for name, value in optimizer.param_groups[0].items() if name not in own}
    for decays in (True, False):
        group = [parameter for parameter in new if (parameter.dim() >= 2) == decays]
        if group:
            decay = weight_decay if decays else 0.0
            optimizer.add_param_group({**settings, "params": group, "weight_decay": decay, UNFROZEN: True})
    return len(new)


def mark_heads(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Split every group of a new optimizer into one of the transformer and one of heads, marked `is_head`.

    For TransferLearningScheduler, which has a learning rate for each. To be called before a state is loaded and before
    the optimizer is extended.
    """
    body = {parameter for _, parameter in _body(model)}
    groups = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    for group in groups:
        for is_head in (False, True):
            part = [parameter for parameter in group["params"] if (parameter not in body) == is_head]
            if part:
                optimizer.add_param_group({**group, "params": part, **({"is_head": True} if is_head else {})})


def _body(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield names and parameters of the transformer, without those that a head shares."""
    named = list(model.named_parameters(remove_duplicate=False))
    heads = {parameter for name, parameter in named if not name.startswith(BODY)}
    if len(heads) == len(named):
        raise ConfigError(
            f"only a model's `{BODY}*` can be frozen, and this model has none (but {named[0][0]} and others): "
            "remove the option, or use this prefix for its body"
        )
    yield from ((name, parameter) for name, parameter in named if parameter not in heads)


def _matches(name: str, pattern: str) -> bool:
    names = (name, name.removeprefix(BODY))
    return any(fnmatchcase(own, pattern) or fnmatchcase(own, f"{pattern}.*") for own in names)
