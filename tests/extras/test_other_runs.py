"""Other runs' models: loaded if they fit, refused with a one-line message if not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import core
from core import CheckpointError
from data.vocabulary import Vocabulary
from extras.other_runs import load_filler, load_judge, load_unmasking_model
from tests.wiring.tiny_task import SCORING, TEXT, save_model, task

VOCABULARY = Vocabulary.beyond(TEXT)


@pytest.mark.parametrize("default", [False, True])
def test_a_judge_has_the_settings_of_its_checkpoint(
    run: core.Runtime, initializer: core.ModelInitializer, default: bool
) -> None:
    save_model("judge.pt", mode="sequence_scorer", cls_token_id=TEXT + 5, block_size=33)
    judge = load_judge(initializer, Path("judge.pt"), VOCABULARY, 20, transformed=default)

    assert (judge.cls_token_id, judge.block_size, judge.transformed) == (TEXT + 5, 33, default)
    assert judge(torch.zeros(3, 9, dtype=torch.int64)).shape == (3,)
    for scale in (False, True):
        checkpoint = torch.load("judge.pt", weights_only=True)
        torch.save({**checkpoint, "config": {"training_type": "x", "score_transform": scale}}, "scaled.pt")
        assert load_judge(initializer, Path("scaled.pt"), VOCABULARY, 20, transformed=default).transformed == scale


def test_a_filler_has_the_settings_of_the_options(run: core.Runtime, initializer: core.ModelInitializer) -> None:
    save_model("filler.pt")
    scoring = task(run, **SCORING, fill="sample", fill_temperature=0.5, fill_top_k=7)
    objective: Any = scoring.objective(initializer)
    filler = objective.filler

    assert (filler.vocab_size, filler.sample, filler.temperature, filler.top_k) == (TEXT, True, 0.5, 7)
    assert not filler.model.training


def test_padding_and_mask_ids_are_mapped_to_those_of_the_model(
    run: core.Runtime, initializer: core.ModelInitializer
) -> None:
    pad = VOCABULARY.pad
    save_model("judge.pt", mode="sequence_scorer", cls_token_id=pad, meta={"pad_token_id": 18, "cls_token_id": pad})
    save_model("filler.pt", meta={"mask_token_id": 19, "pad_token_id": None})

    judge = load_judge(initializer, Path("judge.pt"), VOCABULARY, 16)
    filler = load_filler(
        initializer, Path("filler.pt"), VOCABULARY, 16, sample=False, temperature=1.0, top_k=None
    )  # fmt: skip

    assert judge.renamed == {pad: 18} and filler.renamed == {VOCABULARY.mask: 19}
    save_model("same.pt", meta=VOCABULARY.meta())
    assert not load_filler(
        initializer, Path("same.pt"), VOCABULARY, 16, sample=False, temperature=1.0, top_k=None
    ).renamed  # fmt: skip


JUDGING = {"training_type": "unmasking", "enable_judge_model": True, "judge_model_checkpoint": "other.pt"}
FILLING = {**SCORING, "unmasking_model_checkpoint": "other.pt"}
SCORER = {"mode": "sequence_scorer", "cls_token_id": TEXT + 5}


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        (FILLING, SCORER, "^other.pt is a sequence_scorer, wanted a language_model: give"),
        (
            FILLING,
            {"mode": "token_classifier"},
            "^other.pt is a token_classifier, wanted a language_model: give",
        ),
        (FILLING, {"vocab_size": 40}, "^other.pt has vocab_size=40 and block_size=16, wanted 32 and at least 15"),
        (FILLING, {"block_size": 14}, "^other.pt has vocab_size=32 and block_size=14, wanted 32 and at least 15"),
        (FILLING, {"attention_type": "causal"}, "^other.pt is no unmasking model: give the checkpoint of"),
        (JUDGING, {}, "^other.pt is a language_model, wanted a sequence_scorer: give another"),
        (JUDGING, {**SCORER, "vocab_size": 40}, "^other.pt has vocab_size=40 and block_size=16, wanted 32"),
    ],
)
def test_another_runs_model_that_does_not_fit_is_refused(
    run: core.Runtime,
    initializer: core.ModelInitializer,
    options: dict[str, Any],
    config: dict[str, Any],
    message: str,
) -> None:
    save_model("other.pt", **config)

    with pytest.raises(CheckpointError, match=message) as error:
        task(run, **options).objective(initializer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [FILLING, JUDGING], ids=["filler", "judge"])
def test_a_missing_model_of_another_run_is_reported(
    run: core.Runtime, initializer: core.ModelInitializer, options: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match=r"other\.pt"):
        task(run, **options).objective(initializer)


def test_the_model_of_a_fork_is_no_unmasking_model() -> None:
    """Its config class may lack attention_type."""

    class Initializer:
        def load_frozen(self, path: Path, mode: str) -> Any:
            return SimpleNamespace(config=SimpleNamespace(block_size=8)), {}

    with pytest.raises(CheckpointError, match="^a.pt is no unmasking model"):
        load_unmasking_model(Initializer(), Path("a.pt"))  # type: ignore[arg-type]
