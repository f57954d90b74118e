"""Models of the transformers package: loaded by name or from a folder, or made of a checkpoint."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.errors import CheckpointError, ConfigError
from core.model_initializer import LoadedModel, load_exactly
from extras.hugging_face.model import HuggingFaceModel
from extras.hugging_face.packages import first_line, import_bitsandbytes, import_transformers
from extras.hugging_face.processor import takes_images

log = logging.getLogger("coregpt")

PREFIX = "hf:"  # of init_from
FULL = "none"  # of quantization
ATTENTION = {"sdpa": "sdpa", "manual": "eager", "flash": "flash_attention_2"}  # ours, and transformers' names
OF_SAVE_PRETRAINED = "that save_pretrained has written, with config.json and model.safetensors"
FALLBACK = {"flash_attention_2": "sdpa", "sdpa": "eager"}  # for a kernel that cannot be had
LOCAL = ("/", ".", "~", "\\")  # how the names of folders begin
DROPOUTS = ("dropout", "pdrop", "dropout_rate")  # how the names of such settings in a config end


def name_of(init_from: str) -> str:
    """Return the name or the folder of the model that `hf:...` means."""
    name = init_from.removeprefix(PREFIX)
    return os.path.expanduser(name) if name.startswith("~") else name


def load_model(
    name: str,
    device: torch.device,
    attention: str = "sdpa",
    dropout: float | None = None,
    quantization: str = FULL,
    device_map: str | None = None,
) -> LoadedModel:
    """Return a model of Hugging Face with its weights, in float32.

    name:         of the hub, or a folder
    attention:    sdpa, manual or flash; one that cannot be had falls back to another, which is logged
    dropout:      of all layers; None: as in the model's own config
    quantization: 8bit or 4bit: of the linear layers, which then cannot train
    device_map:   of transformers, such as auto: spreads the layers over devices

    Raises ConfigError without the transformers package, and for a model that cannot be loaded completely.
    """
    config = read_config(name)
    _set_dropout(config, dropout)
    placed = quantization != FULL or device_map is not None
    place = {"device_map": device_map or {"": device}, **quantized(quantization)} if placed else {}

    def load(kernel: str) -> tuple[Any, dict[str, Any]]:
        settings = {"dtype": torch.float32, "attn_implementation": kernel, "output_loading_info": True, **place}
        settings["trust_remote_code"] = False
        made: tuple[Any, dict[str, Any]] = _class_for(config).from_pretrained(name, config=config, **settings)
        return made

    model, report = _read(name, lambda: with_attention(attention, device, load))
    lacking = sorted(report["missing_keys"])
    if lacking or report["mismatched_keys"]:
        raise ConfigError(
            f"init_from={PREFIX}{name}: its weights lack {', '.join(lacking[:3]) or 'tensors of the right shape'}, "
            "which would be random numbers: give a complete model"
        )
    made = HuggingFaceModel(model)
    if quantization == FULL:  # in 8 bits a later token may change how an earlier one is rounded
        _require_causal(made, name)
    else:
        made.register_load_state_dict_pre_hook(_drop_constants)  # type: ignore[no-untyped-call]
    made.train()  # from_pretrained returns it in evaluation mode, without dropout
    log.info(
        f"model: {name}, a {type(model).__name__} with {made.get_num_params():,} parameters in "
        f"{'float32' if quantization == FULL else quantization}, attention: {model.config._attn_implementation}"
    )
    return LoadedModel(made if placed else made.to(device), made.model_args())


def resume_model(
    checkpoint: dict[str, Any], device: torch.device, attention: str, dropout: float | None
) -> LoadedModel:
    """Return the model of a checkpoint, made of the config in it; the hub and the model's first folder are not needed.

    Raises CheckpointError if the weights do not fit the config.
    """
    transformers, saved = import_transformers(), dict(checkpoint["model_args"]["hugging_face"])
    kind = saved.pop("model_type", None)
    try:
        config = transformers.AutoConfig.for_model(kind, **saved)
        _set_dropout(config, dropout)
        model = with_attention(
            attention,
            device,
            lambda kernel: _class_for(config).from_config(config, attn_implementation=kernel, dtype=torch.float32),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"the checkpoint's {kind} cannot be made ({error}): install the version of transformers that it was "
            "trained with"
        ) from None
    if generation := checkpoint["model_args"].get("generation_config"):
        model.generation_config = transformers.GenerationConfig.from_dict(generation)
    made = HuggingFaceModel(model)
    load_exactly(made, checkpoint["model"], is_ours=False)
    return LoadedModel(made.to(device), made.model_args())


def _class_for(config: Any) -> Any:
    import transformers

    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForImageTextToText if takes_images(config) else transformers.AutoModelForCausalLM


def read_config(name: str) -> Any:
    """Return the config of a model of Hugging Face; its weights are not read. Raises ConfigError if there is none."""
    transformers = import_transformers()
    if not name or (name.startswith(LOCAL) and not Path(name).is_dir()):
        raise ConfigError(f"init_from={PREFIX}{name}: there is no such folder: give a folder {OF_SAVE_PRETRAINED}")
    if Path(name).is_dir() and not Path(name, "config.json").is_file():
        raise ConfigError(
            f"init_from={PREFIX}{name}: the folder has no config.json: give a folder {OF_SAVE_PRETRAINED}"
        )
    config = _read(name, lambda: transformers.AutoConfig.from_pretrained(name, trust_remote_code=False))
    if getattr(config, "quantization_config", None):
        raise ConfigError(
            f"init_from={PREFIX}{name}: the weights are quantised, and all weights train: give the folder of the model "
            "in full precision, which quantization=4bit quantises as it is loaded"
        )
    return config


def with_attention(attention: str, device: torch.device, make: Callable[[str], Any]) -> Any:
    """Return `make(kernel)` with transformers' name of a kernel; with another kernel if this one cannot be had."""
    kernel = ATTENTION[attention]
    if kernel == "flash_attention_2" and device.type != "cuda":
        log.warning("attention=flash needs a CUDA device and `pip install flash-attn`; using sdpa instead")
        kernel = "sdpa"
    while True:
        try:
            return make(kernel)
        except (ImportError, ValueError) as error:
            if kernel not in FALLBACK or not _is_about_kernel(error):
                raise
            if kernel != "sdpa":  # which nobody has asked for
                log.warning(f"attention=flash cannot be used here ({first_line(error)}); using sdpa instead")
            kernel = FALLBACK[kernel]


def quantized(quantization: str) -> dict[str, Any]:
    """Return the argument of from_pretrained for weights in 8 or 4 bits; none for weights in full precision.

    4 bits are normal floats (nf4) with quantised constants. Dettmers et al. 2023, https://arxiv.org/abs/2305.14314
    """
    if quantization == FULL:
        return {}
    import_bitsandbytes()
    transformers = import_transformers()
    if quantization == "8bit":
        return {"quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True)}
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    kind = torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return {"quantization_config": transformers.BitsAndBytesConfig(**four, bnb_4bit_compute_dtype=kind)}


def is_quantized(model: nn.Module) -> bool:
    """Return whether some of a model's weights are in 8 or 4 bits."""
    return any(parameter.dtype in (torch.int8, torch.uint8) for parameter in model.parameters())


def _drop_constants(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Remove the constants of quantised weights from a state that is loaded: modules save them, but do not load them.

    The weights never change, so that theirs are there already.
    """
    known = {*(name for name, _ in module.named_parameters(remove_duplicate=False)), *dict(module.named_buffers())}
    for name in [name for name in state if name not in known]:
        del state[name]


def is_of_hugging_face(checkpoint: dict[str, Any] | None) -> bool:
    """Return whether a checkpoint is of a model of transformers."""
    return checkpoint is not None and "hugging_face" in checkpoint["model_args"]


def enable_checkpointing(model: nn.Module) -> None:
    """Let a model of transformers compute its activations again in the backward pass, in place of keeping them."""
    inner: Any = getattr(model, "transformer", None)
    if not getattr(inner, "supports_gradient_checkpointing", False):
        raise ConfigError(
            "activation_checkpointing=full is for models of Hugging Face that have it (init_from=hf:...): remove it"
        )
    if hasattr(inner, "activation_checkpointing_enable"):
        inner.activation_checkpointing_enable()
    else:  # its name until transformers 5
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _read(name: str, read: Callable[[], Any]) -> Any:
    """Return what a function reads of a model. Raises ConfigError for a model that cannot be had."""
    import safetensors

    try:
        return read()
    except OSError as error:
        cause = first_line(error)
        if Path(name).is_dir():
            raise ConfigError(
                f"init_from={PREFIX}{name} has no model that can be read ({cause}): give a folder {OF_SAVE_PRETRAINED}"
            ) from None
        raise ConfigError(
            f"init_from={PREFIX}{name} cannot be had from the hub ({cause}): go online once, or give a folder "
            f"{OF_SAVE_PRETRAINED}"
        ) from None
    except (ValueError, KeyError, RuntimeError, ImportError, safetensors.SafetensorError) as error:
        raise ConfigError(f"init_from={PREFIX}{name} cannot be loaded: {first_line(error)}") from None


def _set_dropout(config: Any, dropout: float | None) -> None:
    """Set the dropouts in a config, as far as they are numbers at its top."""
    if dropout is None:
        return
    text = config.get_text_config()
    for name, value in vars(text).items():
        if name.endswith(DROPOUTS) and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(text, name, dropout)


def _is_about_kernel(error: Exception) -> bool:
    return any(word in str(error).lower() for word in ("flash", "scaled_dot_product_attention", "sdpa"))


@torch.no_grad()
def _require_causal(model: HuggingFaceModel, name: str) -> None:
    """Raise ConfigError if the logits of a position depend on a later token, so that the next one would be seen."""
    if model.has_encoder:
        return
    ids = torch.arange(8).repeat(2, 1) % model.config.vocab_size
    ids[1, -1] += 1
    model.eval()
    first, second = (model(row[None], row[None])[0][0, :-1] for row in ids)
    if (first - second).abs().max() > 1e-5 * (1 + first.abs().max()):  # causal ones differ by 0
        raise ConfigError(
            f"init_from={PREFIX}{name}: a {type(model.transformer).__name__} sees later tokens here, and would learn "
            "to copy them: give a causal language model, such as a GPT-2 or a Llama"
        )
