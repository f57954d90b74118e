"""Loads models of other runs, a filler of masked positions or a judge of texts, and refuses those that do not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.errors import CheckpointError
from extras.filler import Filler
from loss_modifiers import Judge

if TYPE_CHECKING:
    from pathlib import Path

    from core import ModelInitializer
    from data.vocabulary import Vocabulary


def load_unmasking_model(initializer: ModelInitializer, path: Path) -> tuple[Any, dict[str, Any]]:
    """Return a checkpoint's frozen model, and the options of its run. Raises CheckpointError for another task."""
    model, notes = initializer.load_frozen(path, "language_model")
    if getattr(model.config, "attention_type", "causal") != "bidirectional":  # a fork's model.py may not have it
        raise CheckpointError(f"{path} is no unmasking model: give the checkpoint of a training_type=unmasking run")
    return model, notes


def load_filler(
    initializer: ModelInitializer,
    path: Path,
    vocabulary: Vocabulary,
    block_size: int,
    *,
    sample: bool,
    temperature: float,
    top_k: int | None,
) -> Filler:
    """Return a filler with a checkpoint's unmasking model. block_size: of the texts to fill"""
    model, notes = load_unmasking_model(initializer, path)
    _require_size(path, model.config, vocabulary, block_size)
    return Filler(model, vocabulary.text, sample, temperature, top_k, _renamed(notes, vocabulary))


def load_judge(
    initializer: ModelInitializer, path: Path, vocabulary: Vocabulary, block_size: int, transformed: bool = False
) -> Judge:
    """Return a judge with a checkpoint's sequence scorer.

    block_size:  of the texts to judge
    transformed: whether its targets were transformed, if the checkpoint does not say so
    """
    model, notes = initializer.load_frozen(path, "sequence_scorer")
    _require_size(path, model.config, vocabulary, block_size)
    scale = notes.get("score_transform")
    scale = transformed if scale is None else scale
    config = model.config
    return Judge(model, config.cls_token_id, config.block_size, scale, _renamed(notes, vocabulary))


def _renamed(notes: dict[str, Any], vocabulary: Vocabulary) -> dict[int, int]:
    """Return the ids of [MASK] and [PAD] that differ in the checkpoint: ours to the checkpoint's."""
    theirs, ours = notes.get("meta") or {}, vocabulary.meta()
    names = [name for name in ("mask_token_id", "pad_token_id") if name in ours and theirs.get(name) is not None]
    return {ours[name]: theirs[name] for name in names if ours[name] != theirs[name]}


def _require_size(path: Path, config: Any, vocabulary: Vocabulary, block_size: int) -> None:
    """Raise CheckpointError for a model of another vocabulary, or with a block_size smaller than a text."""
    if config.vocab_size != vocabulary.size or config.block_size < block_size:
        raise CheckpointError(
            f"{path} has vocab_size={config.vocab_size} and block_size={config.block_size}, wanted {vocabulary.size} "
            f"and at least {block_size}: train it on this data set, with that block_size"
        )
