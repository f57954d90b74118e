"""Converts the D line's OptimizedGPT2, whose residual connections have a learnable scale for each channel.

There a layer is x + s * attention(norm(x)), then x + s * mlp(norm(x)). A scale is folded into the last linear layer of
its branch: s * (W h + b) = (diag(s) W) h + s * b. The fused matrix has queries, keys and values of the first head, then
those of the second one ...; here it has all queries, then all keys, then all values.
"""

import re
from typing import Any

import torch

from core.checkpoint.format import handle_state_dict_prefixes
from core.checkpoint.other_formats import is_optimized_gpt2, is_weights
from core.errors import CheckpointError, ConfigError
from tools.legacy_model import LM_HEAD, empty_model
from tools.legacy_model import TOKENS as OUR_TOKENS

State = dict[str, Any]

TOKENS, POSITIONS, QKV_BIAS = "token_embedding.weight", "positional_embedding.weight", "attn.qkv_proj.bias"
MASK = re.compile(r"blocks\.\d+\.attn\.mask")  # of the causal attention, which it does not use
OUTSIDE = {TOKENS: OUR_TOKENS, POSITIONS: "transformer.wpe.weight"}
OUTSIDE |= {f"ln_f.{kind}": f"transformer.ln_f.{kind}" for kind in ("weight", "bias")}
LAYERS = {  # of a block: names there and here
    "ln1": "ln_1",
    "ln2": "ln_2",
    "attn.qkv_proj": "attn.c_attn",
    "attn.out_proj": "attn.c_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
SCALES = {"attn.out_proj": "ls1", "mlp.fc2": "ls2"}  # the last layer of a branch, and the scale of the branch


def weights_of(old: Any) -> State | None:
    """Return the weights of an OptimizedGPT2, of a checkpoint or bare; None if the file is of something else."""
    given = old if isinstance(old, dict) else {}
    state = given.get("model_state_dict", given)
    return handle_state_dict_prefixes(state) if is_weights(state) and is_optimized_gpt2(state) else None


def convert_optimized_gpt2(old: State, state: State, n_head: int | None) -> tuple[State, list[str]]:
    """Return model, model_args and iter_num of a checkpoint that computes the same, and notes for the user.

    old:    the content of the file
    state:  its weights, as `weights_of` returns them
    n_head: for a file of bare weights

    Raises CheckpointError if it has something that our model lacks, ConfigError if the number of heads is not known.
    """
    config, schedule = (
        old[key] if isinstance(old.get(key), dict) else {} for key in ("config", "scheduler_state_dict")
    )
    state = {name: tensor.float() for name, tensor in state.items() if not MASK.fullmatch(name)}
    layers = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    _require_fitting(state, layers)
    if not torch.equal(state[LM_HEAD], state[TOKENS]):
        raise CheckpointError(f"{LM_HEAD} is not the token embedding, as it is in this program's language models")
    args: State = {
        "n_layer": layers,
        "n_head": _heads(config, n_head, width=state[TOKENS].shape[1]),
        "n_embd": state[TOKENS].shape[1],
        "block_size": len(state[POSITIONS]),
        "vocab_size": len(state[TOKENS]),
        "bias": True,
        "dropout": float(config.get("drop_rate", 0.0)),
        "activation": "gelu_tanh",
    }
    weights = {LM_HEAD: state[TOKENS], **{ours: state[theirs] for theirs, ours in OUTSIDE.items()}}
    for layer in range(layers):
        block = {name.split(".", 2)[2]: value for name, value in state.items() if name.startswith(f"blocks.{layer}.")}
        weights |= {f"transformer.h.{layer}.{name}": value for name, value in _block(block, args["n_head"]).items()}
    notes = ["AdamW's moments are not converted: a resume begins with new ones"]
    if args["dropout"]:
        notes.append(
            f"dropout={args['dropout']:g} acts on other places here: on the results of attention and MLP, and not on "
            "the hidden layer of the MLP; without dropout the two models compute the same"
        )
    steps = schedule.get("last_epoch")  # it counts updates
    iter_num = steps if isinstance(steps, int) and steps >= 0 else 0
    model = {name: weights[name] for name in empty_model(args).state_dict()}
    return {"model": model, "model_args": args, "iter_num": iter_num}, notes


def _block(block: State, heads: int) -> State:
    """Return the weights of a layer under our names. block: under those there, without the prefix"""
    block = {QKV_BIAS: torch.zeros(len(block["attn.qkv_proj.weight"])), **block}
    for layer, scale in SCALES.items():
        block[f"{layer}.weight"] = block[scale][:, None] * block[f"{layer}.weight"]
        block[f"{layer}.bias"] = block[scale] * block[f"{layer}.bias"]
    for name in ("attn.qkv_proj.weight", QKV_BIAS):
        block[name] = block[name].unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
    return {
        f"{ours}.{kind}": block[f"{theirs}.{kind}"] for theirs, ours in LAYERS.items() for kind in ("weight", "bias")
    }


def _require_fitting(state: State, layers: int) -> None:
    """Raise CheckpointError unless these are the weights of an OptimizedGPT2 with so many layers, and nothing else."""
    width = state[TOKENS].shape[-1] if TOKENS in state else 0
    linear = {"qkv_proj": (3 * width, width), "out_proj": (width, width), "fc1": (4 * width, width)}
    linear["fc2"] = (width, 4 * width)
    wanted: dict[str, tuple[int, ...]] = {f"ln_f.{kind}": (width,) for kind in ("weight", "bias")}
    for layer in range(layers):
        for name in LAYERS:
            shape = linear.get(name.rpartition(".")[2], (width,))
            wanted |= {f"blocks.{layer}.{name}.weight": shape, f"blocks.{layer}.{name}.bias": shape[:1]}
        wanted |= {f"blocks.{layer}.{scale}": (width,) for scale in SCALES.values()}
    known = {*wanted, TOKENS, POSITIONS, LM_HEAD}
    wrong = [
        *(f"{name} is missing" for name in sorted(known - state.keys()) if not name.endswith(QKV_BIAS)),
        *(f"{name} is not known" for name in state if name not in known),
        *(
            f"{name} has shape {tuple(state[name].shape)}, wanted {shape}"
            for name, shape in wanted.items()
            if name in state and tuple(state[name].shape) != shape
        ),
    ]
    if wrong:
        raise CheckpointError(f"the weights do not fit this program's model: {'; '.join(wrong[:5])}")


def _heads(config: State, given: int | None, width: int) -> int:
    """Return the number of heads: that of the checkpoint's config, or the given one."""
    saved = config.get("n_heads")
    if given is not None and saved not in (None, given):
        raise ConfigError(f"--n_head={given}, but the checkpoint says {saved}: remove it")
    heads = given if saved is None else saved
    if heads is None:
        raise ConfigError(
            "the file holds weights alone, which do not show the number of heads: give --n_head=N; the D line's own "
            "sizes have a head for each 64 channels"
        )
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise ConfigError(f"{heads} heads do not divide the {width} channels of the weights: give the right --n_head")
    return heads
