"""Adapters of a run, made from the options object: new ones, those of a checkpoint, and those in a folder of peft."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import ConfigError, LoadedModel, ModelInitializer, load_checkpoint
from core.checkpoint.find import find_checkpoint
from core.model_initializer import ModelSource, load_exactly
from extras.hugging_face.loading import FULL, PREFIX, load_model, name_of
from extras.hugging_face.lora import (
    CONFIG,
    Adapter,
    LoraSettings,
    add_adapter,
    attach,
    base_of,
    counts,
    import_peft,
    insert,
    is_adapter,
    read_adapter,
    require_base,
)
from extras.hugging_face.tokenizer_import import tokenizer_meta

if TYPE_CHECKING:
    from config.options import Options

log = logging.getLogger("coregpt")
KEY = "adapter"  # in a checkpoint's model_args
LoadBase = Callable[[str, dict[str, Any]], LoadedModel]  # of the name of a base, and model_args


def base_loader(
    initializer: ModelInitializer,
    attention: str = "sdpa",
    dropout: float | None = None,
    quantization: str = FULL,
    device_map: str | None = None,
) -> LoadBase:
    """Return what loads the model that an adapter belongs to: one of transformers, a GPT-2, or a run's checkpoint."""

    def load(base: str, model_args: dict[str, Any]) -> LoadedModel:
        if base.startswith(PREFIX):
            return load_model(name_of(base), initializer.device, attention, dropout, quantization, device_map)
        if quantization != FULL:
            raise ConfigError(
                f"quantization={quantization} is for models of Hugging Face (init_from=hf:NAME): remove it"
            )
        if not Path(base).exists() or Path(base, "config.json").is_file():
            return initializer.load_pretrained(base, model_args)
        checkpoint = load_checkpoint(find_checkpoint(base))
        loaded = initializer.resume_model_from_checkpoint(checkpoint, model_args)
        found, wanted = (args.get("mode", loaded.model_args.get("mode")) for args in (loaded.model_args, model_args))
        if found != wanted:
            raise ConfigError(
                f"{base} is a {found or 'language_model'}, wanted a {wanted}: give another run's checkpoint"
            )
        return loaded

    return load


def adapter_of(checkpoint: dict[str, Any] | None) -> Adapter | None:
    """Return the adapter of a checkpoint, None if it has none."""
    found = (checkpoint or {}).get("model_args", {}).get(KEY)
    return None if found is None else Adapter(**found)


def adapted_source(
    options: Options,
    init_from: str,
    initializer: ModelInitializer,
    checkpoint: dict[str, Any] | None,
    transfer: Path | None,
) -> ModelSource | None:
    """Return the source of a model that has an adapter, or gets one next to the weights of another run; else None.

    transfer: that run's checkpoint
    """
    dropout = options.dropout if "dropout" in options.model_fields_set else None
    adapter = adapter_of(checkpoint)
    quantization = options.quantization if adapter is None else adapter.quantization
    load_base = base_loader(initializer, options.attention, dropout, quantization)
    if adapter is not None and checkpoint is not None:
        if "quantization" in options.model_fields_set and options.quantization != quantization:
            raise ConfigError(
                f"quantization={options.quantization}, but the adapter was trained with {quantization}: remove it, or "
                "begin a new one"
            )
        return resumed_adapter(adapter, checkpoint, load_base, quantization)
    if checkpoint is None and (folder := adapter_folder(init_from)):
        return folder_adapter(folder, load_base, quantization)
    if transfer and options.use_lora:
        return lambda model_args: load_base(str(transfer), model_args)
    return None


def resumed_adapter(
    adapter: Adapter, checkpoint: dict[str, Any], load_base: LoadBase, quantization: str = FULL
) -> ModelSource:
    """Return the source of a model with the adapter of a checkpoint; its base is loaded from where it came from.

    quantization: of what `load_base` returns
    """

    def source(model_args: dict[str, Any]) -> LoadedModel:
        loaded = load_base(adapter.base, model_args)
        require_base(loaded.model, adapter, quantization)
        insert(loaded.model, adapter)
        load_exactly(loaded.model, {**loaded.model.state_dict(), **checkpoint["model"]}, is_ours=False)
        return loaded._replace(model_args={**loaded.model_args, KEY: adapter._asdict()})

    return source


def folder_adapter(folder: Path, load_base: LoadBase, quantization: str = FULL) -> ModelSource:
    """Return the source of a model with the adapter in a folder of peft's, or of a run of ours."""

    def source(model_args: dict[str, Any]) -> LoadedModel:
        config, base, weights = read_adapter(folder)
        with needed_by(folder):
            loaded = load_base(base, model_args)
        adapter = attach(loaded.model, config, base, weights, str(folder), quantization)
        sizes = loaded.model.model_args() if base.startswith(PREFIX) else loaded.model_args
        return LoadedModel(loaded.model, {**sizes, KEY: adapter._asdict()})

    return source


def adapter_folder(init_from: str) -> Path | None:
    """Return the folder of an adapter that `init_from=hf:FOLDER` names, None if it names something else."""
    folder = Path(name_of(init_from))
    return folder if init_from.startswith(PREFIX) and is_adapter(folder) else None


@contextmanager
def needed_by(folder: Path | None) -> Iterator[None]:
    """Add, to the error of a base that cannot be loaded, the adapter that needs it. folder: None if none does"""
    try:
        yield
    except ConfigError as error:
        if folder is None:
            raise
        raise ConfigError(
            f"{folder} holds an adapter, whose base cannot be loaded: {error}, and name it in {folder / CONFIG}, as "
            "base_model_name_or_path"
        ) from None


def base_name(init_from: str) -> str:
    """Return `init_from`, of an adapter's folder that of its base."""
    folder = adapter_folder(init_from)
    return init_from if folder is None else base_of(folder)


def tokenizer_of(init_from: str) -> dict[str, Any] | None:
    """Return the tokenizer of a model of Hugging Face, as a checkpoint keeps it; of an adapter, its own or the base's.

    None if there is none.
    """
    names = dict.fromkeys((init_from, base_name(init_from)))
    found = (tokenizer_meta(name_of(name)) for name in names if name.startswith(PREFIX))
    return next((meta for meta in found if meta is not None), None)


def with_lora(loaded: LoadedModel, options: Options, init_from: str, resumes: bool) -> LoadedModel:
    """Return a model with the adapter that the options ask for, or with the one that it has.

    Raises ConfigError if the run that is resumed has none, or one with other settings.
    """
    saved = loaded.model_args.get(KEY)
    if saved is None and options.use_lora and resumes:
        raise ConfigError(
            "use_lora=True, but the checkpoint is of a run that trains all weights: begin a new run from it, with "
            f"init_from_checkpoint={options.out_dir}, or init_from=hf:FOLDER, and another out_dir"
        )
    if saved is None and options.use_lora:
        settings = LoraSettings(
            options.lora_r,
            options.lora_alpha,
            options.lora_dropout,
            options.lora_target_modules,
            options.lora_modules_to_save,
        )
        adapter = add_adapter(loaded.model, settings, init_from, options.quantization)
        loaded = loaded._replace(model_args={**loaded.model_args, KEY: adapter._asdict()})
    elif saved is not None:
        _require_same(saved["config"], options)
    elif options.quantization != FULL:
        raise ConfigError(
            f"quantization={options.quantization}: weights in {options.quantization.removesuffix('bit')} bits cannot "
            "train: set use_lora=True, for matrices next to them"
        )
    if KEY in loaded.model_args:
        log.info(f"lora: {counts(loaded.model)}")
    return loaded


def _require_same(config: dict[str, Any], options: Options) -> None:
    """Raise ConfigError if the user asks for another adapter than the one there is."""
    for option, name in (("lora_r", "r"), ("lora_alpha", "lora_alpha")):
        given = getattr(options, option)
        if option in options.model_fields_set and options.use_lora and given != config.get(name, given):
            raise ConfigError(f"{option}={given}, but the adapter has {config[name]}: remove it, or begin a new one")


def require_lora(options: Options) -> None:
    """Raise ConfigError if use_lora=True has no trained weights to go on from, or peft is not installed."""
    if not options.use_lora:
        return
    import_peft()
    if options.init_from == "scratch" and not options.init_from_checkpoint:
        raise ConfigError(
            "use_lora=True needs a trained model: set init_from=hf:NAME, init_from=gpt2, or init_from_checkpoint=RUN"
        )
