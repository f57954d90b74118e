"""What a run learns: its objective, with loss modifiers and the frozen models of other runs that it needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from core import (
    ConfigError,
    InstabilityDetector,
    LanguageModeling,
    ModelInitializer,
    Objective,
    Runtime,
    find_checkpoint,
)
from extras.objectives import LabelledTokens, SequenceScoring, TokenClassification, Unmasking
from extras.other_runs import load_filler, load_judge
from wiring.data import find_vocabulary
from wiring.given_parts import NOTHING_GIVEN, GivenParts
from wiring.modifiers import create_loss_modifier_pipeline

if TYPE_CHECKING:
    from config.options import Options
    from extras.filler import Filler
    from loss_modifiers import Judge, LossModifierPipeline
    from wiring.data import RunData

log = logging.getLogger("coregpt")


class Learning(NamedTuple):
    """An objective, its loss modifiers (None without), and the checkpoints of other runs that it has loaded."""

    objective: Objective
    modifiers: LossModifierPipeline | None
    files: list[Path]


def make_objective(
    options: Options,
    runtime: Runtime,
    data: RunData,
    initializer: ModelInitializer,
    detector: InstabilityDetector,
    given: GivenParts = NOTHING_GIVEN,
) -> Learning:
    """Return what a training step computes, with the frozen models it needs loaded."""
    if given.objective is not None:
        return Learning(given.make_objective(), None, [])
    if data.rows is not None:
        if options.loss_modifiers_enabled:
            raise ConfigError("loss_modifiers_enabled=True has no effect on rows of text: remove it")
        return Learning(LabelledTokens(data.rows.shifts), None, [])
    files: list[Path] = []
    vocabulary = data.vocabulary

    def find(path: str) -> Path:  # the same file on all ranks, even if another run writes to that folder
        files.append(runtime.on_master(lambda: find_checkpoint(path)))
        return files[-1]

    def judge(path: str, transformed: bool) -> Judge:
        known = vocabulary or find_vocabulary(options, data.source)
        return load_judge(initializer, find(path), known, options.block_size, transformed)

    special = vocabulary or (find_vocabulary(options, data.source) if options.uncertainty_factor else None)
    pipeline = create_loss_modifier_pipeline(
        options,
        special=range(special.text, special.size) if special and options.uncertainty_factor else (),
        device=runtime.device,
        rank=runtime.rank,
        load_judge=judge,
    )
    modifiers = None if pipeline.is_empty() else pipeline
    if modifiers is not None:
        log.info(f"loss modifiers: {', '.join(modifiers.get_enabled_modifier_names())}")
    check_logits = detector.check_logits_stability
    if vocabulary is None:
        every_step = check_logits if options.check_every_step else None
        objective: Objective = LanguageModeling(modifiers, every_step)
    elif options.training_type == "unmasking":
        objective = Unmasking(options.loss_mean, modifiers, check_logits)
    elif options.training_type == "token_classification":
        balanced = options.class_weights == "balanced"
        objective = TokenClassification(options.num_token_classes, balanced, modifiers, check_logits)
    else:
        filler = None if data.is_queue else _filler(options, data, initializer, find)
        objective = SequenceScoring(vocabulary.cls, filler, options.score_transform, modifiers, check_logits)
    return Learning(objective, modifiers, files)


def _filler(options: Options, data: RunData, initializer: ModelInitializer, find: Callable[[str], Path]) -> Filler:
    assert data.vocabulary is not None
    if not options.unmasking_model_checkpoint:
        raise ConfigError(
            "training_type=sequence_scoring needs a model that fills masked positions: set "
            "unmasking_model_checkpoint to the folder of an unmasking run"
        )
    return load_filler(
        initializer,
        find(options.unmasking_model_checkpoint),
        data.vocabulary,
        options.block_size - 1,  # CLS goes before the text
        sample=options.fill == "sample",
        temperature=options.fill_temperature,
        top_k=options.fill_top_k,
    )
