"""LoRA by the peft package: low-rank matrices next to frozen layers, on models of transformers and on model.GPT.

Hu et al. 2021, https://arxiv.org/abs/2106.09685
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from core.checkpoint.weights import Tensors, tied_names
from core.commands import install_command
from core.errors import CheckpointError, ConfigError
from extras.hugging_face.loading import FULL
from extras.hugging_face.model import HuggingFaceModel
from extras.hugging_face.packages import first_line

log = logging.getLogger("coregpt")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names
FILE_PREFIX = "base_model.model."  # of the weights' names in peft's file
OWN_TARGETS = ["c_attn"]  # of model.GPT, as peft's of a GPT-2
OWN_CLASS = {"base_model_class": "GPT", "parent_library": "model"}  # how peft names a model that is not transformers'
SAMPLES = 4096  # numbers of each tensor that a fingerprint reads
ALL_LINEAR = "all-linear"  # peft's word


class Adapter(NamedTuple):
    """What a checkpoint keeps of an adapter besides its weights.

    config:      peft's
    base:        the model that it belongs to, as `init_from` or `init_from_checkpoint` named it
    fingerprint: of the base's weights
    also:        weights of the base that came with the adapter, such as embeddings of new tokens; saved with it
    quantization: of the base while the adapter trains: none, 8bit or 4bit
    unquantized: fingerprint of the weights that stay as they are when the others are quantised
    """

    config: dict[str, Any]
    base: str
    fingerprint: str
    also: list[str] = []
    quantization: str = FULL
    unquantized: str = ""


class LoraSettings(NamedTuple):
    """How an adapter is made. targets: None for the usual layers of the architecture; saved: modules that train"""

    r: int
    alpha: int
    dropout: float
    targets: list[str] | str | None
    saved: list[str]


def import_peft() -> Any:
    """Return the peft package. Raises ConfigError without it."""
    try:
        import peft
    except ImportError as error:
        raise ConfigError(f"LoRA needs the peft package ({error}): {install_command('peft')}") from None
    return peft


def inner(model: Any) -> Any:
    """Return the module that an adapter is for: the model of transformers, or ours."""
    return model.transformer if isinstance(model, HuggingFaceModel) else model


def prefix_of(model: Any) -> str:
    """Return what the names of that module's weights begin with in the model's state dict."""
    return "transformer." if isinstance(model, HuggingFaceModel) else ""


def add_adapter(model: Any, settings: LoraSettings, base: str, quantization: str = FULL) -> Adapter:
    """Freeze a model, and put new matrices next to its target layers, in place; they change nothing at first.

    quantization: of the model's weights as they are now

    Raises ConfigError if a target is no layer of the model, or shares its weights with another one.
    """
    peft = import_peft()
    core = inner(model)
    targets = _targets(core, settings.targets)
    _require_known(core, targets, "lora_target_modules")
    _require_known(core, settings.saved, "lora_modules_to_save")
    is_tied = _is_any_tied(core, [*([] if isinstance(targets, str) else targets), *settings.saved])
    if is_tied and not isinstance(model, HuggingFaceModel):
        raise ConfigError(
            "lora_target_modules and lora_modules_to_save: lm_head and wte share their weights in model.py: leave them "
            "out"
        )
    config = peft.LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        exclude_modules=["lm_head"] if targets == ALL_LINEAR else None,
        modules_to_save=list(settings.saved) or None,
        fan_in_fan_out=any(map(_is_conv1d, core.modules())),
        ensure_weight_tying=is_tied,
        task_type=_task_of(model),
        auto_mapping=None if isinstance(model, HuggingFaceModel) else OWN_CLASS,
        base_model_name_or_path=base.removeprefix("hf:"),
    )
    found = Adapter(as_json(config), base, **_marks(model, quantization))
    insert(model, found)
    return found


def insert(model: Any, adapter: Adapter) -> None:
    """Freeze a model and put an adapter's matrices into it, in place; they are new."""
    peft = import_peft()
    config = peft.PeftConfig.from_peft_type(**{**adapter.config, "inference_mode": False})
    with _quiet():
        try:
            peft.inject_adapter_in_model(config, inner(model))
        except ValueError as error:
            raise ConfigError(f"the adapter does not fit the model: {str(error).splitlines()[0]}") from None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or ".modules_to_save." in name)


def has_adapter(model: Any) -> bool:
    """Return whether an adapter was put into a model."""
    return any(".lora_" in name for name in model.state_dict())


def merge(model: Any) -> Any:
    """Return the model with its adapter added to its weights, in place; its logits differ by rounding alone.

    A head that was trained apart from the token embedding stays apart.
    """
    peft, core = import_peft(), inner(model)
    tied = {name for group in tied_names(core.state_dict()) for name in group}
    for name, part in list(core.named_modules()):
        replacement = None
        if isinstance(part, peft.tuners.tuners_utils.BaseTunerLayer):
            replacement = part.get_base_layer()
            if f"{name}.base_layer.weight" in tied:  # what is added to one must not change the other
                replacement.weight = nn.Parameter(replacement.weight.detach().clone())
            part.merge(safe_merge=True)
        elif isinstance(part, peft.utils.other.ModulesToSaveWrapper):
            replacement = part.modules_to_save["default"]
        if replacement is not None:
            parent, _, own = name.rpartition(".")
            setattr(core.get_submodule(parent), own, replacement)
    if isinstance(model, HuggingFaceModel) and core.get_output_embeddings() is not None:
        is_tied = core.get_output_embeddings().weight is core.get_input_embeddings().weight
        for config in (core.config, core.config.get_text_config()):
            config.tie_word_embeddings = is_tied
    return model


def counts(model: Any) -> str:
    """Return how many parameters train, for a line of the log."""
    trains = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    every = sum(parameter.numel() for parameter in model.parameters())
    layers = sum(name.endswith(("lora_A.default.weight", "lora_embedding_A.default")) for name in model.state_dict())
    return f"{trains:,} of {every:,} parameters train ({trains / every:.2%}), next to {layers} layers"


def adapter_names(model: Any, adapter: Adapter | None = None) -> dict[str, str]:
    """Return the names of an adapter's weights: in peft's file, and in the model's state dict."""
    peft, core, prefix = import_peft(), inner(model), prefix_of(model)
    state = core.state_dict()
    marked = {name: torch.tensor(number) for number, name in enumerate(state)}
    kept = peft.get_peft_model_state_dict(core, state_dict=marked, save_embedding_layers=False)
    names = list(state)
    found = {FILE_PREFIX + key: prefix + names[int(number)] for key, number in kept.items()}
    also = adapter.also if adapter is not None else []
    return {**found, **{FILE_PREFIX + name.removeprefix(prefix): name for name in also}}


def load_weights(model: Any, weights: Mapping[str, torch.Tensor], names: Mapping[str, str], where: str) -> None:
    """Copy an adapter's weights into a model. names: as `adapter_names` returns; weights: by the first of each pair

    Raises CheckpointError if one is missing, is none of the adapter's, or has another shape: it is of another base.
    """
    own = model.state_dict()
    wrong = [
        *(f"{key} is missing" for key in names if key not in weights),
        *(f"{key} has no place in it" for key in weights if key not in names),
        *(
            f"{key} has shape {tuple(weights[key].shape)}, wanted {tuple(own[name].shape)}"
            for key, name in names.items()
            if key in weights and weights[key].shape != own[name].shape
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{where}: the adapter is of another model: {'; '.join(wrong[:3])}{more}")
    with torch.no_grad():
        for key, name in names.items():
            own[name].copy_(weights[key])


def read_adapter(folder: Path) -> tuple[dict[str, Any], str, Tensors]:
    """Return the config, the base and the weights of an adapter that peft, or a run of ours, has written.

    base: as `init_from` names it, `hf:...` for models of transformers

    Raises ConfigError if it names no base, CheckpointError if it is damaged.
    """
    peft, base = import_peft(), base_of(folder)
    from safetensors import SafetensorError

    try:
        config = as_json(peft.PeftConfig.from_pretrained(str(folder)))
        weights = peft.utils.load_peft_weights(str(folder), device="cpu")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder} holds no adapter that can be read ({first_line(error)})") from None
    return config, base, weights


def base_of(folder: Path) -> str:
    """Return the base that an adapter's config names, as `init_from` does: see `read_adapter`."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        base, mapping = config.get("base_model_name_or_path"), config.get("auto_mapping") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG} cannot be read ({first_line(error)})") from None
    if not base or not isinstance(base, str):
        raise ConfigError(f"{folder / CONFIG} names no base model: set base_model_name_or_path in it")
    return base if mapping.get("parent_library") == OWN_CLASS["parent_library"] else f"hf:{base}"


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter of peft."""
    return (folder / CONFIG).is_file()


def attach(
    model: Any, config: dict[str, Any], base: str, weights: Tensors, where: str, quantization: str = FULL
) -> Adapter:
    """Put an adapter that was read into its base, with its weights; both stay as they were trained.

    Embeddings in the file that are not the adapter's own, such as those of new tokens, replace the base's.
    Raises CheckpointError if it is of another base.
    """
    made = Adapter(config, base, **_marks(model, quantization))
    _resize(model, weights)
    insert(model, made)
    names, own, prefix = adapter_names(model), model.state_dict(), prefix_of(model)
    others = [prefix + key.removeprefix(FILE_PREFIX) for key in weights if key not in names]
    made = made._replace(also=[name for name in others if name in own])
    load_weights(model, weights, adapter_names(model, made), where)
    return made


def _resize(model: Any, weights: Tensors) -> None:
    """Give a model of transformers the vocabulary size of the embeddings in an adapter's file, if there are any."""
    core = inner(model)
    if not isinstance(model, HuggingFaceModel):
        return
    state, size = core.state_dict(), core.config.get_text_config().vocab_size
    names = {key: key.removeprefix(FILE_PREFIX) for key in weights}
    rows = {len(weights[key]) for key, name in names.items() if name in state and len(state[name]) == size}
    if len(rows) == 1 and rows != {size}:
        core.resize_token_embeddings(rows.pop(), mean_resizing=False)
        model.config.vocab_size = core.config.get_text_config().vocab_size


def write_adapter(folder: Path, adapter: Adapter, weights: Tensors) -> None:
    """Write an adapter as peft does. weights: under the names of peft's file"""
    from safetensors.torch import save_file

    text = json.dumps({**adapter.config, "inference_mode": True}, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    copies = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in weights.items()
    }
    save_file(copies, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors lets nobody else read it


def fingerprint(model: Any, leaves_out: Collection[str] = ()) -> str:
    """Return what identifies a model's weights: a hash of names, shapes, and numbers at even distances.

    leaves_out: names of modules whose weights do not count
    """
    digest = hashlib.sha256()
    for name, tensor in inner(model).state_dict().items():
        if any(name.startswith(f"{module}.") for module in leaves_out):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().flatten()
        chosen = flat[:: max(1, flat.numel() // SAMPLES)].cpu().contiguous()
        digest.update(chosen.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def require_base(model: Any, adapter: Adapter, quantization: str = FULL) -> None:
    """Raise CheckpointError unless a model is the one that an adapter was trained on, by its weights.

    quantization: of the model; if it is another one than the adapter's, only weights that are never quantised count
    """
    marks = _marks(model, quantization)
    mark = "fingerprint" if quantization == adapter.quantization else "unquantized"
    if marks[mark] != getattr(adapter, mark):
        raise CheckpointError(
            f"the adapter was trained on other weights than {adapter.base} has now: put the model that it belongs to "
            "in its place"
        )


def _marks(model: Any, quantization: str) -> dict[str, Any]:
    """Return the fields of an adapter that identify its base."""
    linear = [name for name, part in inner(model).named_modules() if isinstance(part, nn.Linear) or _is_conv1d(part)]
    return {
        "fingerprint": fingerprint(model),
        "quantization": quantization,
        "unquantized": fingerprint(model, leaves_out=linear),
    }


def _is_conv1d(part: nn.Module) -> bool:
    """Return whether a layer is GPT-2's in transformers: linear, with transposed weights."""
    return type(part).__name__ == "Conv1D"


def as_json(config: Any) -> dict[str, Any]:
    """Return a config of peft as plain values."""
    found: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=_plain))
    return found


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _targets(core: Any, given: Sequence[str] | str | None) -> list[str] | str:
    if given is not None:
        return given if isinstance(given, str) else list(given)
    config = getattr(core, "config", None)
    kind = getattr(config, "model_type", None)
    if kind is None:
        return OWN_TARGETS
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    return list(USUAL[kind]) if kind in USUAL else ALL_LINEAR


def _require_known(core: Any, wanted: Sequence[str] | str, option: str) -> None:
    """Raise ConfigError unless each name is the end of a layer's name. A text is a pattern, which peft looks at."""
    names = [name for name, _ in core.named_modules() if name]
    for end in () if isinstance(wanted, str) else wanted:
        if not any(name == end or name.endswith(f".{end}") for name in names):
            layers = {name.rpartition(".")[2] for name, part in core.named_modules() if hasattr(part, "weight")}
            raise ConfigError(f"{option}: no layer's name ends in {end!r}, wanted some of {', '.join(sorted(layers))}")


def _is_any_tied(core: Any, ends: Sequence[str]) -> bool:
    tied = [name.removesuffix(".weight") for group in tied_names(core.state_dict()) for name in group]
    return any(name == end or name.endswith(f".{end}") for name in tied for end in ends)


def _task_of(model: Any) -> str | None:
    if not isinstance(model, HuggingFaceModel):
        return None
    return "SEQ_2_SEQ_LM" if model.has_encoder else "CAUSAL_LM"


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
