"""The model of a run: where it comes from, and what is changed in it before training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core import ConfigError, DataError, LoadedModel, ModelInitializer, Runtime, find_checkpoint
from core.checkpoint.checkpointer import MakeModel
from core.checkpoint.format import load_values
from core.machine.memory import require_memory
from core.model_initializer import ModelSource
from data.token_meaning import difference, sizes_differ
from extras.freezing import freeze_transformer, train_only
from extras.hugging_face.c_line_checkpoint import fit_moments
from extras.hugging_face.loading import PREFIX as HUGGING_FACE
from extras.hugging_face.loading import enable_checkpointing
from extras.hugging_face.model import HuggingFaceModel
from wiring.architecture import load_architecture
from wiring.given_parts import NOTHING_GIVEN, GivenParts, ready_model
from wiring.hugging_face.models import hugging_face_source, is_hugging_face, log_other_tokenizer, require_fitting
from wiring.lora import adapted_source, require_lora, with_lora

if TYPE_CHECKING:
    from config.options import Options
    from wiring.data import RunData
    from wiring.start import RunStart

log = logging.getLogger("coregpt")


def make_initializer(options: Options, runtime: Runtime, say: Callable[[str], None]) -> ModelInitializer:
    """Return what makes models of this run's architecture. say: prints a line of nanoGPT's on the console

    Raises ConfigError if model.py cannot follow the options.
    """
    require_lora(options)
    architecture = load_architecture()
    if conflicts := list(architecture.conflicts(options)):
        raise ConfigError("\n".join(conflicts))
    for note in architecture.notes(options):
        log.warning(note)
    kernel = options.changed("attention") if architecture.is_ours else {}
    classes, trains = (architecture.model_class, architecture.config_class), _trains_all(options)
    return ModelInitializer(*classes, runtime.device, say, kernel, trains=trains)


def _trains_all(options: Options) -> bool:
    """Return whether all weights are trained, from the first update on."""
    return not (options.eval_only or options.freezes or options.trainable or options.use_lora)


def find_transfer_source(options: Options, runtime: Runtime, start: RunStart) -> Path | None:
    """Return the checkpoint whose transformer a new model starts from, the same file on all ranks; None for none."""
    given = options.init_from_checkpoint
    return runtime.on_master(lambda: find_checkpoint(given)) if given and start.found is None else None


def model_maker(
    options: Options,
    runtime: Runtime,
    data: RunData,
    start: RunStart,
    initializer: ModelInitializer,
    transfer: Path | None,
    given: GivenParts = NOTHING_GIVEN,
) -> MakeModel:
    """Return a function that makes the model; a rollback to where this process started calls it again.

    transfer: the checkpoint whose transformer a new model starts from
    given:    a model that is handed in is not made, only loaded with the weights of a checkpoint to resume
    """
    if given.model is not None:
        return ready_model(given.model, runtime, start)
    if transfer:
        _log_other_tokens(f"transfer: {transfer}", load_values(transfer).get("tokenizer"), data)
    elif start.found is None and start.init_from.startswith(HUGGING_FACE):
        log_other_tokenizer(start.init_from, data)
    elif start.found is None and start.init_from != "scratch":
        _log_other_tokens(start.init_from, None, data)

    def make() -> tuple[LoadedModel, dict[str, Any] | None]:
        runtime.seed_all()
        args, checkpoint = model_args(options, data), start.read_checkpoint()
        name, weights = start.model_name, None if start.is_of_c_line else checkpoint
        if source := adapted_source(options, name, initializer, weights, transfer):
            loaded = initializer.initialize(source, args)
        elif is_hugging_face(name, weights):
            source = hugging_face_source(options, name, runtime.device, weights)
            loaded = initializer.initialize(source, args)
        else:
            loaded = _own_model(options, runtime, start, initializer, args, checkpoint, transfer)
        if isinstance(loaded.model, HuggingFaceModel):
            require_fitting(loaded.model, data)
        loaded = with_lora(loaded, options, str(transfer or start.init_from), resumes=checkpoint is not None)
        loaded = loaded._replace(model=adapt(loaded.model, options))
        if checkpoint is not None and start.found and start.is_of_c_line:
            checkpoint["optimizer"] = fit_moments(checkpoint["optimizer"], loaded.model, start.found.path)
        return loaded, checkpoint

    return make


def _own_model(
    options: Options,
    runtime: Runtime,
    start: RunStart,
    initializer: ModelInitializer,
    args: dict[str, Any],
    checkpoint: dict[str, Any] | None,
    transfer: Path | None,
) -> LoadedModel:
    """Return a model of model.py: new, of a checkpoint, or a GPT-2."""
    architecture = load_architecture()
    if checkpoint is not None:  # what only a fork's model.py knows stays as saved, unless the user gives it
        saved, given = checkpoint["model_args"], architecture.given_arguments(options)
        checkpoint["model_args"] = {**architecture.arguments(options), **saved, **given}
    elif start.init_from == "scratch":
        architecture.require_values(args)
    source = model_source(start.init_from, initializer, checkpoint)
    loaded = initializer.initialize(source, args)
    if checkpoint is None and start.init_from != "scratch":
        loaded = architecture.as_built(loaded, options)
    require_training_memory(loaded.model, options, runtime)
    if transfer:
        initializer.setup_transfer_learning(loaded.model, transfer)
    return loaded


def require_training_memory(model: Any, options: Options, runtime: Runtime) -> None:
    """Raise TooLargeError if all weights of a model are to train, and it or a batch cannot fit into the memory."""
    if _trains_all(options):
        settings = {"sequences": options.batch_size, "number_bytes": torch.finfo(runtime.dtype).bits // 8}
        moments = 2 if options.optimizer_type == "adamw" else 0
        require_memory(model.config, runtime.device, trains=True, moments=moments, **settings)


def model_source(init_from: str, initializer: ModelInitializer, checkpoint: dict[str, Any] | None) -> ModelSource:
    """Return where the weights come from: a checkpoint of ours or of nanoGPT's, a GPT-2, or random numbers."""
    if checkpoint is not None:
        return partial(initializer.resume_model_from_checkpoint, checkpoint)
    if init_from == "scratch":
        initializer.say("Initializing a new model from scratch")
        return initializer.create_model_from_scratch
    initializer.require_pretrained(init_from)
    initializer.say(f"Initializing from OpenAI GPT-2 weights: {init_from}")
    return partial(initializer.load_pretrained, init_from)


def model_args(options: Options, data: RunData) -> dict[str, Any]:
    """Return the arguments of the model's config class that the options ask for."""
    architecture = load_architecture()
    size = data.source.vocab_size if data.vocabulary is None else data.vocabulary.size
    args = options.model_args(size)
    if data.vocabulary is not None and options.training_type == "sequence_scoring":
        args["cls_token_id"] = data.vocabulary.cls
    known = {name: value for name, value in args.items() if architecture.accepts(name)}
    return {**known, **architecture.arguments(options)}


def adapt(model: Any, options: Options) -> Any:
    """Return the model, transformed as the options ask; before it is spread over processes and the optimizer made."""
    if options.activation_checkpointing == "full":
        enable_checkpointing(model)
    if options.trainable:
        train_only(model, options.trainable)
    elif options.freezes:
        freeze_transformer(model)
    else:
        return model
    trains = [parameter.requires_grad for parameter in model.parameters()]
    if not any(trains):
        raise ConfigError("freeze_transformer=True leaves nothing to train: this model has no head apart; remove it")
    late = options.unfreeze_at_iteration
    rest = "the others stay frozen" if late is None else f"the others from iteration {late} on"
    log.info(f"transfer: {sum(trains)} of {len(trains)} tensors train, {rest}")
    return model


def check_task(options: Options, data: RunData, model_args: dict[str, Any], checkpoint: dict[str, Any] | None) -> None:
    """Raise ConfigError or DataError unless data, model and a resumed checkpoint are for the same task and tokens."""
    wanted, notes = options.training_type, (checkpoint or {}).get("config") or {}
    found = notes.get("training_type", "language_model") if checkpoint else wanted
    if found != wanted:
        raise ConfigError(
            f"the checkpoint is of a run with training_type={found}, not {wanted}: resume it with that, or "
            f"begin a new run from it with init_from_checkpoint={options.out_dir} and another out_dir"
        )
    classes = model_args.get("num_token_classes")
    if wanted == "token_classification" and classes != options.num_token_classes:
        raise ConfigError(
            f"the checkpoint's classifier has {classes} classes, not {options.num_token_classes}: set "
            f"num_token_classes={classes}"
        )
    if checkpoint is not None:
        _check_tokens(options, data, model_args, checkpoint)
    if data.vocabulary is not None:
        _check_special_ids(data, wanted, model_args, notes)
    known = model_args.get("vocab_size", data.source.vocab_size)  # a model that was handed in may not say it
    in_text = data.vocabulary.text if data.vocabulary and not data.is_queue else known
    if in_text is not None:
        data.source.check_vocab(in_text)


def _check_tokens(options: Options, data: RunData, model_args: dict[str, Any], checkpoint: dict[str, Any]) -> None:
    """Raise DataError if a resumed model has learnt other tokens than the data set holds."""
    then, now, size = checkpoint.get("tokenizer"), data.source.meta, data.source.vocab_size
    known = model_args.get("vocab_size", size)
    advice = (
        "prepare the data set as it was, or begin a new run from these weights with "
        f"init_from_checkpoint={options.out_dir} and another out_dir"
    )
    if then is not None and now is not None:
        if found := difference(then, now):
            raise DataError(f"{data.source.meta_path}: the checkpoint has learnt other tokens ({found}): {advice}")
    elif now is not None and data.vocabulary is None and sizes_differ(known, size):
        # a checkpoint of nanoGPT's, or of a data set without meta.pkl: only the sizes are known
        if known < size or (checkpoint.get("config") or {}).get("dataset") != options.dataset:
            raise DataError(f"{data.source.meta_path}: {size} tokens, but the checkpoint's model has {known}: {advice}")
        log.warning(f"{data.source.meta_path}: {size} tokens, but the checkpoint's model has {known}")


def _log_other_tokens(whose: str, then: dict[str, Any] | None, data: RunData) -> None:
    if found := difference(then, data.source.meta):
        log.warning(f"{whose}: it has learnt other tokens than those of {data.source.meta_path} ({found})")


def _check_special_ids(data: RunData, training_type: str, model_args: dict[str, Any], notes: dict[str, Any]) -> None:
    vocabulary = data.vocabulary
    assert vocabulary is not None
    cls_token_id = model_args.get("cls_token_id")
    if training_type == "sequence_scoring" and cls_token_id != vocabulary.cls:
        raise ConfigError(
            f"the checkpoint's scorer reads from token {cls_token_id}, here CLS is {vocabulary.cls}: set "
            f"cls_token_id={cls_token_id}"
        )
    mask = (notes.get("meta") or notes).get("mask_token_id")
    if mask not in (None, vocabulary.mask):
        raise ConfigError(
            f"the checkpoint's run had mask_token_id={mask}, here it is {vocabulary.mask}: set mask_token_id={mask}"
        )
    if not data.is_queue and vocabulary.size > model_args["vocab_size"]:
        raise ConfigError(
            f"the model has {model_args['vocab_size']} token ids, wanted {vocabulary.size}: the text's "
            f"{vocabulary.text}, and the special ids after them, such as the mask's {vocabulary.mask}; start from "
            "these weights with init_from_checkpoint instead, which makes room"
        )
