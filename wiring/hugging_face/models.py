"""Models of Hugging Face in a run, made from the options object: which model, and what its token ids stand for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from core import ConfigError
from core.model_initializer import ModelSource
from extras.hugging_face.collation import require_separate_rows
from extras.hugging_face.loading import (
    PREFIX,
    is_of_hugging_face,
    load_model,
    name_of,
    read_config,
    resume_model,
)
from extras.hugging_face.model import HuggingFaceModel
from extras.hugging_face.tokenizer_import import give_other_ids
from wiring.lora import adapter_folder, base_name, needed_by, tokenizer_of

if TYPE_CHECKING:
    from config.options import Options
    from wiring.data import RunData
    from wiring.start import RunStart

log = logging.getLogger("coregpt")


def is_hugging_face(init_from: str, checkpoint: dict[str, Any] | None) -> bool:
    """Return whether a run's model is one of transformers."""
    return init_from.startswith(PREFIX) or is_of_hugging_face(checkpoint)


def hugging_face_source(
    options: Options, init_from: str, device: torch.device, checkpoint: dict[str, Any] | None
) -> ModelSource:
    """Return where the model comes from: the checkpoint, or the hub or folder that `init_from` names."""
    dropout = options.dropout if "dropout" in options.model_fields_set else None
    if checkpoint is not None:
        return lambda _: resume_model(checkpoint, device, options.attention, dropout)
    name = name_of(init_from)
    return lambda _: load_model(name, device, options.attention, dropout, options.quantization)


def config_of(init_from: str) -> dict[str, Any]:
    """Return the config of the model that `hf:...` names, or of its base; {} if that is a run's, or no such model."""
    base = base_name(init_from)
    if not base.startswith(PREFIX):
        return {}
    with needed_by(adapter_folder(init_from)):
        found: dict[str, Any] = read_config(name_of(base)).to_dict()
    return found


def tokens_of_start(start: RunStart) -> dict[str, Any] | None:
    """Return what the ids of a data set without meta.pkl stand for, as the start of the run tells; None: GPT-2's.

    That is what the checkpoint to resume says, or the tokenizer of a model of Hugging Face, if it has one.
    """
    if start.found is None and start.init_from.startswith(PREFIX):
        config_of(start.init_from)  # what is wrong with the model is said first
        return tokenizer_of(start.init_from)
    return start.tokenizer()


def log_other_tokenizer(init_from: str, data: RunData) -> None:
    """Warn if a data set has another tokenizer than the model's folder."""
    if data.rows is None and not data.source.meta_path.exists():
        return  # then its ids are taken for those of the model's tokenizer
    meta = tokenizer_of(init_from)
    if meta is not None and give_other_ids(meta, data.source.meta):
        log.warning(f"{init_from}: its tokenizer gives other ids than that of {data.source.meta_path}")


def require_fitting(model: HuggingFaceModel, data: RunData) -> None:
    """Raise ConfigError unless a model can learn from the data: bins with an encoder, or packs that see each other."""
    if data.rows is None and model.has_encoder:
        raise ConfigError(
            f"a {type(model.transformer).__name__} has an encoder, which token bins have no inputs for: give rows with "
            "prompts and responses (dataset=FILE.jsonl), or a causal language model, such as a GPT-2 or a Llama"
        )
    if data.rows is None and data.source.meta is not None and data.source.vocab_size:
        data.source.check_vocab(data.source.vocab_size)  # ids beyond it are of another tokenizer
    if data.rows is not None and data.rows.packs:
        require_separate_rows(model, model.config.vocab_size)
