"""Weights of other programs: fitted to a model's names, compared where the model ties them, and searched for NaN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from core.errors import CheckpointError

TOKENS, POSITIONS, HEAD = "transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"
MASKS = ("bias", "mask", "causal_mask", "tril")  # what models call the causal mask of their attention
MASKED = -100.0  # a mask that is added to the scores holds at most this where attention is not allowed
Tensors = dict[str, torch.Tensor]


def fit_to_model(state: Tensors, own: Tensors) -> Tensors:
    """Return a checkpoint's weights under the names of a model's state dict `own`.

    A prefix that all names share is removed. Causal masks that only one side saves are dropped or added: they are no
    weights. Of tensors that the model ties, one is enough. Raises CheckpointError if two that it ties differ.
    """
    if not own.keys() & state.keys():
        state = without_common_prefix(state)
    state = {name: tensor for name, tensor in state.items() if name in own or not is_causal_mask(name, tensor)}
    masks = {name: tensor for name, tensor in own.items() if name not in state and is_causal_mask(name, tensor)}
    state.update(masks)
    for names in tied_names(own):
        present = [name for name in names if name in state]
        require_equal(state, present)
        state.update({name: state[present[0]] for name in names if present and name not in state})
    return state


def require_equal(state: Tensors, names: list[str]) -> None:
    """Raise CheckpointError unless these tensors, which the model ties, are equal in a checkpoint."""
    for name in names[1:]:
        one, other = state[names[0]], state[name]
        is_same_memory = one.data_ptr() == other.data_ptr() and one.dtype == other.dtype
        if one.shape == other.shape and not is_same_memory and not torch.equal(one.float(), other.float()):
            raise CheckpointError(
                f"{names[0]} and {name} differ in the checkpoint, and this model ties them, so that it would not be "
                "the network that was trained: use the checkpoint with the model.py of its own program"
            )


def read_tensors(folder: Path, names: Mapping[str, str]) -> Tensors:
    """Return weights from the safetensors files of a folder. names: for each weight, its name in the files

    Raises CheckpointError if one is missing, or a file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    found: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as content:
                found |= {name: content.get_tensor(name) for name in list(content.keys())}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {file} ({error}); put a good copy in its place") from None
    if missing := [name for name in names.values() if name not in found]:
        raise CheckpointError(f"{folder} lacks {missing[0]}: put a good copy in its place")
    return {name: found[own] for name, own in names.items()}


def tied_names(own: Tensors) -> list[list[str]]:
    """Return the groups of names in a model's state dict that are one tensor."""
    groups: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in own.items():
        if tensor.numel() and tensor.data_ptr():
            groups.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def without_common_prefix(state: Tensors) -> Tensors:
    """Return a GPT's weights without a prefix that all names share, such as the `model.` of a Lightning module."""
    ends = [name.removesuffix(known) for known in (TOKENS, HEAD) for name in state if name.endswith(f".{known}")]
    prefix = ends[0] if ends else ""
    if not all(name.startswith(prefix) for name in state):
        return state
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def is_causal_mask(name: str, tensor: torch.Tensor) -> bool:
    """Return whether a tensor of an attention layer is the causal mask, or GPT-2's number for masked scores."""
    *path, last = name.split(".")
    if not any("attn" in part or "attention" in part for part in path):
        return False
    if last == "masked_bias":
        return tensor.numel() == 1
    size = tensor.shape[-1] if tensor.dim() >= 2 else 0
    if last not in MASKS or tensor.numel() != size * size:
        return False
    square = tensor.reshape(size, size)
    past = torch.ones(size, size, dtype=torch.bool).tril()
    if torch.equal(square, past.to(square.dtype)):  # 1 where attention is allowed
        return True
    if square.dtype == torch.bool:  # True where it is not
        return torch.equal(~square, past)
    return bool(square[past].eq(0).all()) and bool(square[~past].le(MASKED).all())  # added to the scores


def shape_args(state: Tensors) -> dict[str, Any]:
    """Return the model_args that show in a GPT's weights: all of nanoGPT's but n_head and dropout."""
    state = without_common_prefix(state)
    tokens = state.get(TOKENS, state.get(HEAD))
    if tokens is None or tokens.dim() != 2:
        return {}
    layers = {name.split(".")[2] for name in state if name.startswith("transformer.h.")}
    shape = {
        "n_layer": len(layers),
        "n_embd": tokens.shape[1],
        "bias": "transformer.ln_f.bias" in state,
        "vocab_size": tokens.shape[0],
    }
    return {**shape, "block_size": state[POSITIONS].shape[0]} if POSITIONS in state else shape


def non_finite(state: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Yield the names of tensors that hold NaN or infinite numbers; causal masks may."""
    for name, tensor in state.items():
        value = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
        if not torch.isfinite(value).all() and not is_causal_mask(name, tensor):
            yield name
