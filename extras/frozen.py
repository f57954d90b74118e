"""Other runs' models put to use: one that fills gaps, and one that judges texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import CheckpointError
from extras.filler import Filler
from loss_modifiers import Judge

if TYPE_CHECKING:
    from pathlib import Path

    from core import ModelInitializer
    from data.vocabulary import Vocabulary


def load_filler(
    initializer: ModelInitializer, path: Path, vocabulary: Vocabulary, block_size: int,
    *, sample: bool, temperature: float, top_k: int | None,
) -> Filler:  # fmt: skip
    """Return a checkpoint's unmasking model; see `Filler`. block_size: of the texts it is to fill"""
    model, _ = initializer.load_frozen(path, "language_model", vocabulary.size, block_size)
    if vocabulary.mask >= model.config.vocab_size or model.config.attention_type != "bidirectional":
        raise CheckpointError(f"{path} is no unmasking model: wanted one trained with training_type=unmasking")
    return Filler(model, vocabulary.text, sample, temperature, top_k)


def load_judge(
    initializer: ModelInitializer, path: Path, vocab_size: int, block_size: int, transformed: bool = False
) -> Judge:
    """Return a checkpoint's sequence scorer; see `Judge`.

    vocab_size, block_size: of the texts it is to judge
    transformed:            what to assume where the checkpoint does not say on which scale it was trained
    """
    model, options = initializer.load_frozen(path, "sequence_scorer", vocab_size, block_size)
    scale = options.get("score_transform")
    scale = transformed if scale is None else scale
    return Judge(model, model.config.cls_token_id, model.config.block_size, scale)
