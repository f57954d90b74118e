"""AdamW state of legacy checkpoints, converted."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from extras.freezing import freeze_transformer
from extras.unfreezing import replay
from tests.tools.legacy_runs import (
    HEAD,
    SCORER,
    SIZES,
    State,
    as_read,
    converted_model,
    core_scorer,
    loaded_moments,
    mark,
    our_model,
    outputs,
    train_run,
    train_run_scorer,
)
from tools.convert import convert, read


def test_moments_follow_their_parameters_into_another_order() -> None:
    model_before = our_model()  # with learned positions: the legacy order has them last, ours second
    checkpoint, _ = convert(as_read(train_run(model_before)))
    model = converted_model(checkpoint)
    moments = loaded_moments(model, model.configure_optimizers(0.5, 1e-2, (0.8, 0.8), "cpu"), checkpoint["optimizer"])
    assert moments["transformer.wpe.weight"]["exp_avg"].shape == (16, 32)
    for name, tensor in model.named_parameters():
        assert torch.equal(moments[name]["exp_avg"], mark(name, tensor)), name
        assert moments[name]["step"] == 7
    assert [group["weight_decay"] for group in checkpoint["optimizer"]["param_groups"]] == [0.1, 0.0]


@pytest.mark.parametrize("phase", ["frozen", "unfrozen"])
def test_a_scorer_of_the_core_line_is_converted_in_both_phases(
    phase: str, tmp_path: Path, save: Callable[[Any, Path], Path]
) -> None:
    model_before = our_model(**SCORER)
    checkpoint, notes = convert(read(save(core_scorer(model_before, phase), tmp_path / "old.pt")))
    assert checkpoint["model_args"] == {**SIZES, **SCORER}
    scores = outputs(checkpoint["model_args"], checkpoint["model"], scores=True)
    assert torch.equal(scores, outputs({**SIZES, **SCORER}, model_before.state_dict(), scores=True))
    assert any("sequence_head.temperature" in note for note in notes)

    model = converted_model(checkpoint)  # resume as a run that began with a frozen transformer
    freeze_transformer(model)
    optimizer = model.configure_optimizers(0.1, 1e-2, (0.9, 0.9), "cpu")
    replay(model, optimizer, checkpoint["optimizer"], 0.1)
    moments = loaded_moments(model, optimizer, checkpoint["optimizer"])
    names = {f"sequence_head.{ours}": f"sequence_head.{theirs}" for ours, theirs in HEAD.items()}
    for name, tensor in model.named_parameters():
        assert tensor.requires_grad == (phase == "unfrozen" or not name.startswith("transformer."))
        if tensor.requires_grad:
            assert torch.equal(moments[name]["exp_avg"], mark(names.get(name, name), tensor)), name
    factors = [group.get("lr_factor") for group in optimizer.param_groups]
    assert factors == ([None] * 2 if phase == "frozen" else [0.5] * 4)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0] * (len(factors) // 2)


def test_the_train_run_lines_optimizer_after_unfreezing_gets_four_groups() -> None:
    old = as_read(train_run_scorer(our_model(**SCORER)))
    old["model_args"] |= {"freeze_transformer": True, "unfreeze_lr_multiplier": 0.25}
    groups = convert(old).checkpoint["optimizer"]["param_groups"]
    assert [bool(group.get("unfrozen")) for group in groups] == [False, False, True, True]
    assert [group["lr_factor"] for group in groups] == [0.25] * 4
    assert [len(group["params"]) for group in groups] == [1, 3, 9, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": None}, "has none"),
        ({"optimizer": {"state": {}, "param_groups": [{"params": [0, 1]}]}}, "groups of .2. tensors"),
        ({"optimizer": {"state": {}}}, "damaged, KeyError"),
    ],
)
def test_an_optimizer_that_does_not_fit_is_dropped_with_a_note(change: State, message: str) -> None:
    checkpoint, notes = convert({**as_read(train_run(our_model())), **change})
    assert "optimizer" not in checkpoint
    assert len(notes) == 1 and "cannot be resumed" in notes[0]
    assert re.search(message, notes[0])
