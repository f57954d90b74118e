"""Folders of Hugging Face models: whether one holds a GPT-2 that computes what our model does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from core.checkpoint.other_formats import BEGINNINGS, HEAD_BYTES
from core.errors import ConfigError
from core.files import size_text

# other formulas for GELU; OpenAI's weights were trained with gelu_new, and nanoGPT uses them with gelu
GELU = ("gelu", "gelu_new", "gelu_python", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh")
# the parts that a GPT-2 of these classes has besides the body are not used, or tied to it
CLASSES = ("GPT2LMHeadModel", "GPT2Model", "GPT2DoubleHeadsModel")
SIZES = {  # names in GPT-2's config.json, and other names that transformers takes
    "n_layer": ("n_layer", "num_hidden_layers"),
    "n_head": ("n_head", "num_attention_heads"),
    "n_embd": ("n_embd", "hidden_size"),
    "n_positions": ("n_positions", "max_position_embeddings"),
    "vocab_size": ("vocab_size",),
}
DEFAULT_LAYERS, DEFAULT_WIDTH, DEFAULT_HEADS = 12, 768, 12  # of a config.json that leaves them out


class _Setting(NamedTuple):
    """A value of config.json that decides what the model computes.

    default: what a config.json without it means
    fits:    returns whether our model computes the same
    wanted:  the values that fit, in words
    """

    name: str
    default: Any
    fits: Callable[[Any], bool]
    wanted: str


def _is(value: Any) -> Callable[[Any], bool]:
    return lambda found: found is value


SETTINGS = (
    _Setting("activation_function", "gelu_new", lambda name: name in GELU, "gelu or gelu_new"),
    _Setting("tie_word_embeddings", True, _is(True), "true"),
    _Setting("scale_attn_weights", True, _is(True), "true"),
    _Setting("scale_attn_by_inverse_layer_idx", False, _is(False), "false"),
    _Setting("reorder_and_upcast_attn", False, _is(False), "false"),
    _Setting("add_cross_attention", False, _is(False), "false"),
    _Setting("is_encoder_decoder", False, _is(False), "false"),
    _Setting("layer_norm_epsilon", 1e-5, lambda value: value == 1e-5, "1e-05"),
    _Setting("quantization_config", None, _is(None), "none: weights that are not quantized"),
)


def require_gpt2(folder: Path) -> None:
    """Raise ConfigError unless a folder holds a GPT-2 that our model can be, by its config.json. Loads no weights.

    The message names the setting, what it is and what is wanted.
    """
    path = folder / "config.json"
    config = _read_config(path)
    kind, classes = config.get("model_type"), config.get("architectures") or []
    classes = classes if isinstance(classes, list) else [classes]
    known = [str(name).removeprefix("TF").removeprefix("Flax") for name in classes]
    if kind != "gpt2" and not (kind is None and set(known) & set(CLASSES)):
        what = f"architectures {classes}" if kind is None else f"model_type {kind!r}"
        raise ConfigError(f"{path}: {what}, wanted 'gpt2': give the folder of a GPT-2")
    if known and not set(known) & set(CLASSES):
        raise ConfigError(
            f"{path}: architectures {classes}, wanted {CLASSES[0]}: give the folder of a GPT-2 that is a language model"
        )
    sizes = {name: _size(path, config, names) for name, names in SIZES.items()}
    width, heads = sizes["n_embd"] or DEFAULT_WIDTH, sizes["n_head"] or DEFAULT_HEADS
    if width % heads:
        raise ConfigError(f"{path}: n_embd {width}, wanted a multiple of n_head {heads}: the file is damaged")
    inner = _Setting("n_inner", None, lambda value: value in (None, 4 * width), f"{4 * width}, 4 times n_embd, or null")
    for name, default, fits, wanted in (*SETTINGS, inner):
        value = config.get(name, default)
        if not fits(value):
            shown = json.dumps(value)
            shown = shown if len(shown) < 80 else f"{shown[:77]}..."
            raise ConfigError(f"{path}: {name} {shown}, wanted {wanted}: give the folder of a plain GPT-2")
    _require_complete_files(folder, least=(sizes["n_layer"] or DEFAULT_LAYERS) * 12 * width**2)


def _read_config(path: Path) -> dict[str, Any]:
    """Return the content of config.json; ConfigError if it cannot be read."""
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path} ({error}): download the model again") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path} holds a {type(config).__name__}, wanted settings by name: download the model again")
    return config


def _require_complete_files(folder: Path, least: int) -> None:
    """Raise ConfigError if there are no weights, a file of them is a pointer or compressed, or they are too small.

    least: bytes of the layers' matrices, at one byte for each number. To make a model of 10**6 layers takes hours
    """
    files = sorted((*folder.glob("*.safetensors"), *folder.glob("*.bin")))
    if not files:
        raise ConfigError(
            f"{folder} has no weights that can be read, wanted model.safetensors or pytorch_model.bin: download one of "
            "these, too"
        )
    for file in files:
        with open(file, "rb") as content:
            head = content.read(HEAD_BYTES)
        if kind := next((kind for beginning, kind in BEGINNINGS if head.startswith(beginning)), None):
            raise ConfigError(f"{file} is {kind}")
    size = sum(file.stat().st_size for file in files)
    if size < least:
        raise ConfigError(
            f"{folder}: the weights have {size_text(size)}, a model with the sizes in config.json at least "
            f"{size_text(least)}: download the model again"
        )


def _size(path: Path, config: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """Return a size of the model; None if config.json leaves it out. ConfigError for anything but a positive number."""
    name = next((name for name in names if name in config), None)
    value = None if name is None else config[name]
    if name is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ConfigError(f"{path}: {name} {value!r}, wanted a whole number of 1 or more: the file is damaged")
    return value
