"""Model_args and weights of legacy checkpoints, converted."""

from typing import Any

import pytest
import torch

from core.errors import CheckpointError, ConfigError
from tests.tools.legacy_runs import (
    BIDIRECTIONAL,
    SCORER,
    SIZES,
    adamw,
    as_read,
    body,
    by_dims,
    converted_model,
    core_newest,
    core_scorer,
    loaded_moments,
    mark,
    our_model,
    outputs,
    train_run,
    train_run_scorer,
)
from tools.convert import convert


def test_a_classifier_is_bidirectional_whatever_its_model_args_say() -> None:
    args = {"attention_type": "bidirectional", "mode": "token_classifier", "num_token_classes": 3}
    model_before = our_model(**args)
    old = as_read(train_run(our_model()))
    old["model"] = {**body(model_before), "lm_head.weight": model_before.lm_head.weight.detach()}
    old["optimizer"] = adamw(by_dims(list(old["model"]), old["model"]), old["model"])
    old["model_args"]["mode"] = "token_classifier"  # attention_type is causal
    checkpoint, notes = convert(old)
    assert checkpoint["model_args"] == {**SIZES, **args} and notes == []
    assert torch.equal(
        outputs(checkpoint["model_args"], checkpoint["model"]), outputs({**SIZES, **args}, model_before.state_dict())
    )


def test_only_the_head_of_the_trained_mode_is_converted() -> None:
    model_before, scorer = our_model(**BIDIRECTIONAL), our_model(**SCORER)
    checkpoint, notes = convert(core_newest(model_before, scorer))
    assert checkpoint["model_args"] == {**SIZES, **BIDIRECTIONAL}
    args = {**SIZES, **BIDIRECTIONAL}
    classifier = convert(
        core_newest(model_before, scorer, model_mode="token_classifier")
    )  # trained as a language model
    assert classifier.checkpoint["model_args"] == args
    assert torch.equal(outputs(args, checkpoint["model"]), outputs(args, model_before.state_dict()))
    assert "critic_head.weight" in notes[0] and "cls_embedding" in notes[0]
    model = converted_model(checkpoint)
    moments = loaded_moments(model, model.configure_optimizers(0.1, 1e-2, (0.9, 0.9), "cpu"), checkpoint["optimizer"])
    for name, tensor in model.named_parameters():
        assert torch.equal(moments[name]["exp_avg"], mark(name, tensor)), name

    for other in (
        convert(core_newest(model_before, scorer), "sequence_scorer"),
        convert(core_newest(model_before, scorer, model_mode="sequence_scorer")),
    ):
        assert other.checkpoint["model_args"] == {**SIZES, **SCORER}
        weights = {**scorer.state_dict(), **body(model_before)}
        scores = outputs({**SIZES, **SCORER}, other.checkpoint["model"], scores=True)
        assert torch.equal(scores, outputs({**SIZES, **SCORER}, weights, scores=True))


def test_a_mode_without_a_head_is_refused() -> None:
    old = as_read(train_run(our_model()))
    with pytest.raises(ConfigError, match="--mode=sequence_scorer: this checkpoint is a language_model"):
        convert(old, "sequence_scorer")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transformer.h.0.attn.lora_qkv.A.weight", "LoRA"),
        ("plan_encoder.plan_emb", "plan encoder"),
        ("transformer.h.1.cross.q.weight", "plan encoder"),
        ("transformer.h.0.attn.gate", "gate is not known"),
    ],
)
def test_parts_that_the_model_lacks_are_refused(name: str, message: str) -> None:
    old = core_newest(our_model(**BIDIRECTIONAL), our_model(**SCORER))
    old["model"][name] = torch.ones(4)
    with pytest.raises(CheckpointError, match=message):
        convert(old)


def test_an_untied_lm_head_is_refused() -> None:
    old = core_newest(our_model(**BIDIRECTIONAL), our_model(**SCORER))
    old["model"]["_orig_mod.lm_head.weight"] = torch.ones(32, 32)
    with pytest.raises(CheckpointError, match="lm_head.weight is not the token embedding"):
        convert(old)


def test_a_scorer_without_a_cls_token_is_refused() -> None:
    old = core_scorer(our_model(**SCORER), "frozen")
    old["model_args"]["cls_token_id"] = None
    old["model_args"]["mode"] = "sequence_scorer"
    with pytest.raises(CheckpointError, match="cls_token_id is None"):
        convert(old)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "language_model"),
        (BIDIRECTIONAL, "unmasking"),
        ({**BIDIRECTIONAL, "mode": "token_classifier"}, "token_classification"),
        (SCORER, "sequence_scoring"),
    ],
)
def test_the_config_gets_the_training_type_of_the_model(changes: dict[str, Any], kind: str) -> None:
    model_before = our_model(**changes)
    old = as_read(train_run_scorer(model_before) if kind == "sequence_scoring" else train_run(model_before))
    if kind == "token_classification":
        old["model"], old["optimizer"] = model_before.state_dict(), None
        old["model_args"]["mode"] = "token_classifier"
    old["config"] = {"dataset": "tiny", "training_type": "LM"}

    config = convert(old).checkpoint["config"]
    assert (config["dataset"], config["training_type"]) == ("tiny", kind)
