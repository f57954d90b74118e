"""Where a run starts, and which options of a resume differ."""

import copy
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoint.manager import CheckpointManager
from core.checkpoint.resume import (
    changed_options,
    complete,
    damaged_if_it_fails,
    has_other_data,
    launch_id,
    require_counters,
    require_finite_moments,
    restarted,
    resume_command,
    same_batches,
    sample_command,
    train_command,
    where_to_start,
)
from core.errors import CheckpointError

SAVED = {"n_layer": 2, "learning_rate": 0.1, "dataset": "a", "batch_size": 4, "block_size": 16, "out_dir": "x"}


@pytest.fixture
def intact(tmp_path: Path) -> CheckpointManager:
    """Return a manager of a folder with an intact checkpoint, saved in the launch `first`."""
    checkpoints = CheckpointManager(tmp_path)
    content = {"model": {}, "model_args": {}, "iter_num": 5}
    checkpoints.save(
        lambda path: torch.save(content, path),
        {"iter_num": 5, "val_loss": None, "healthy": True, "launch": "first"},
        link=False,
    )
    return checkpoints


@pytest.fixture
def damaged(intact: CheckpointManager) -> CheckpointManager:
    path = intact.load().path
    path.write_bytes(path.read_bytes()[:-1])
    return intact


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("init_from", ["resume", "auto"])
def test_an_intact_checkpoint_is_resumed(intact: CheckpointManager, init_from: str) -> None:
    start, checkpoint = where_to_start(init_from, intact)

    assert start == "resume"
    assert checkpoint is not None and checkpoint.manifest is not None and checkpoint.manifest["iter_num"] == 5


@pytest.mark.parametrize("init_from", ["scratch", "gpt2", "a/folder"])
def test_other_values_of_init_from_load_no_checkpoint(damaged: CheckpointManager, init_from: str) -> None:
    assert where_to_start(init_from, damaged) == (init_from, None)


def test_auto_starts_from_scratch_without_an_intact_checkpoint(tmp_path: Path, damaged: CheckpointManager) -> None:
    assert where_to_start("auto", damaged) == ("scratch", None)
    assert where_to_start("auto", CheckpointManager(tmp_path / "nothing")) == ("scratch", None)
    assert not (tmp_path / "nothing").exists()


def test_resume_raises_without_an_intact_checkpoint(tmp_path: Path, damaged: CheckpointManager) -> None:
    for checkpoints in (damaged, CheckpointManager(tmp_path / "nothing")):
        with pytest.raises(CheckpointError):
            where_to_start("resume", checkpoints)


@pytest.mark.parametrize("iter_num", [True, False, 5.0, -1, None])
def test_an_iteration_that_is_no_count_is_refused(iter_num: Any) -> None:
    require_counters({"iter_num": 5, "best_val_loss": 2.5})

    with pytest.raises(CheckpointError, match="^the checkpoint lacks iter_num, or has a wrong value there: "):
        require_counters({"iter_num": iter_num, "best_val_loss": 2.5})


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"iter_num": 2**53}, "iter_num"),
        ({"best_val_loss": True}, "best_val_loss"),
        ({"best_val_loss": torch.ones(2)}, "best_val_loss"),
        ({"best_val_loss": torch.ones(1, device="meta")}, "best_val_loss"),
        ({"best_val_loss": torch.tensor(1j)}, "best_val_loss"),
        ({"lowest_val_loss": "x"}, "lowest_val_loss"),
        ({"lowest_val_loss": 10**400}, "lowest_val_loss"),
        ({"evaluated_at": 1.5}, "evaluated_at"),
        ({"config": [1]}, "config"),
        ({"recovery": {"left_out": {8: 10**9}}}, "recovery"),
    ],
)
def test_a_counter_of_the_wrong_kind_is_refused(wrong: dict[str, Any], name: str) -> None:
    right = {"iter_num": 5, "best_val_loss": torch.tensor(2.5), "lowest_val_loss": math.inf, "evaluated_at": 4}
    require_counters(right | {"recovery": {"left_out": {8: 1000}}})

    with pytest.raises(CheckpointError, match=f"^the checkpoint lacks {name}, or has a wrong value there: "):
        require_counters(right | wrong)


def test_a_best_loss_of_nan_counts_as_none(caplog: pytest.LogCaptureFixture) -> None:
    """No loss is lower than that."""
    with caplog.at_level("INFO", logger="coregpt"):
        checkpoint = complete(COMPLETE | {"best_val_loss": torch.tensor(math.nan)})

    assert checkpoint["best_val_loss"] == 1e9
    assert "best_val_loss (the next evaluation counts as the best)" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("RNG state is wrong size"), ValueError("x"), OverflowError("x")])
def test_any_error_of_a_damaged_state_is_one_message(error: Exception) -> None:
    with (
        pytest.raises(CheckpointError, match="^the checkpoint's counters or states are damaged"),
        damaged_if_it_fails(),
    ):
        raise error


def test_an_error_with_a_message_of_its_own_stays() -> None:
    with pytest.raises(CheckpointError, match="^my own message$"), damaged_if_it_fails():
        raise CheckpointError("my own message")


def test_batches_to_skip_are_at_most_as_many_as_can_be_drawn() -> None:
    counters = {"iter_num": 5, "best_val_loss": 2.5}
    require_counters({**counters, "recovery": {"left_out": {3: 10**5}}})

    with pytest.raises(CheckpointError, match="lacks recovery, or has a wrong value there"):
        require_counters({**counters, "recovery": {"left_out": {3: 10**5 + 1}}})


@pytest.mark.parametrize("moment", [torch.ones(2).to_sparse(), torch.ones(2, device="meta"), torch.ones(1).expand(2)])
def test_a_moment_that_is_no_ordinary_tensor_is_refused(moment: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match=r"state is damaged \(exp_avg of tensor 3 is no ordinary tensor\)"):
        require_finite_moments({"state": {3: {"exp_avg": moment}}})


def test_a_tensor_among_the_options_is_a_difference() -> None:
    saved = {"n_head": torch.ones(2), "batch_size": torch.ones(2)}

    assert changed_options(saved, {"n_head": 2}).startswith("n_head stays tensor([1., 1.]) (not 2); ")
    assert not same_batches(saved, {"batch_size": 4})


COMPLETE = {"model": {}, "optimizer": {"state": {}, "param_groups": [1]}, "iter_num": 5, "best_val_loss": 2.5}


@pytest.mark.parametrize(
    ("lacking", "line"),
    [
        ([], ""),
        (["optimizer"], "resume: the checkpoint lacks optimizer (its moments start at zero)"),
        (
            ["optimizer", "iter_num", "best_val_loss"],
            "resume: the checkpoint lacks optimizer (its moments start at zero), iter_num (the count starts at "
            "iteration 0), best_val_loss (the next evaluation counts as the best)",
        ),
    ],
)
@pytest.mark.parametrize("as_none", [False, True])
def test_what_a_checkpoint_lacks_is_as_in_a_new_run(
    lacking: list[str], line: str, as_none: bool, caplog: pytest.LogCaptureFixture
) -> None:
    given: dict[str, Any] = {key: value for key, value in COMPLETE.items() if key not in lacking}
    new_run = {"optimizer": None, "iter_num": 0, "best_val_loss": 1e9}
    with caplog.at_level("INFO", logger="coregpt"):
        completed = complete({**given, **(dict.fromkeys(lacking) if as_none else {})})

    assert {key: completed[key] for key in COMPLETE} == COMPLETE | {key: new_run[key] for key in lacking}
    assert completed.get("lowest_val_loss") == (float("inf") if "best_val_loss" in lacking else None)
    assert caplog.messages == ([line] if line else [])
    require_counters(completed)


@pytest.mark.parametrize("empty", [{}, {"state": {}, "param_groups": []}])
def test_an_optimizer_state_without_content_counts_as_lacking(empty: dict[str, Any]) -> None:
    assert complete({**COMPLETE, "optimizer": empty})["optimizer"] is None


def test_a_counter_that_is_a_tensor_becomes_a_number() -> None:
    assert complete({**COMPLETE, "iter_num": torch.tensor(7)})["iter_num"] == 7
    for wrong in (torch.tensor(7.5), torch.tensor(7, device="meta")):
        assert isinstance(complete({**COMPLETE, "iter_num": wrong})["iter_num"], torch.Tensor)


def test_moments_that_are_not_finite_are_refused() -> None:
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    optimizer = {"state": {0: copy.deepcopy(moments), 1: moments}, "param_groups": []}
    for fine in (optimizer, None, {}, {"optimizers": [optimizer]}):
        require_finite_moments(fine)

    moments["exp_avg_sq"][1] = float("nan")
    with pytest.raises(CheckpointError, match=r"not finite \(exp_avg_sq of tensor 1\): .* --init_from_checkpoint"):
        require_finite_moments(optimizer)


def test_auto_refuses_checkpoints_of_a_newer_format(intact: CheckpointManager) -> None:
    manifest = intact.load().path.with_suffix(".json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))

    with pytest.raises(CheckpointError, match="newer"):
        where_to_start("auto", intact)


def test_auto_raises_if_the_disk_cannot_be_read(intact: CheckpointManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk may not be ready after a restart: its checkpoints exist, but cannot be read yet."""

    def broken(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("core.files.sha256", broken)

    with pytest.raises(CheckpointError, match="Input/output error"):
        where_to_start("auto", intact)


@pytest.mark.parametrize(
    ("count", "launch", "init_from", "start"),
    [
        ("0", "first", "scratch", "scratch"),  # the first start of a launch
        ("1", "first", "scratch", "resume"),
        ("2", "first", "gpt2", "resume"),
        ("1", "second", "scratch", "scratch"),  # the checkpoint is of another launch
        ("1", None, "scratch", "scratch"),
        ("1", "second", "auto", "resume"),
    ],
)
def test_a_restarted_group_resumes_its_own_checkpoint(
    intact: CheckpointManager,
    monkeypatch: pytest.MonkeyPatch,
    count: str,
    launch: str | None,
    init_from: str,
    start: str,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", launch or "none")

    assert restarted() is (count != "0")
    assert launch_id() == launch
    assert where_to_start(init_from, intact, restarted())[0] == start


def test_a_group_restarted_before_its_first_checkpoint_uses_init_from(tmp_path: Path) -> None:
    assert where_to_start("gpt2", CheckpointManager(tmp_path), is_restarted=True) == ("gpt2", None)


CHANGE = "; to change what stays, begin a new run with --init_from_checkpoint=x"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, ""),
        ({"out_dir": "elsewhere", "init_from": "resume"}, ""),
        ({"learning_rate": 0.2}, "learning_rate 0.1 -> 0.2"),
        ({"n_layer": 3}, f"n_layer stays 2 (not 3){CHANGE}"),
        ({"unknown_then": 1}, ""),
        ({"block_size": 8, "n_layer": 3}, f"n_layer stays 2 (not 3), block_size 16 -> 8{CHANGE}"),
    ],
)
def test_options_that_differ_are_named(given: dict[str, Any], text: str) -> None:
    assert changed_options(SAVED, SAVED | given) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [("x" * 9000, f"{'x' * 300}..."), ("a\nb", "a b"), (10**5000, "a int"), ("x" * 300, "x" * 300)],
    ids=["long", "lines", "digits", "short"],
)
def test_a_changed_option_is_shown_in_one_short_line(value: Any, text: str) -> None:
    assert changed_options({"dataset": value}, {"dataset": "tiny"}) == f"dataset {text} -> tiny"


def test_special_ids_are_no_option() -> None:
    assert changed_options(SAVED | {"meta": {"cls_token_id": 19}}, SAVED | {"meta": {"cls_token_id": 25}}) == ""


@pytest.mark.parametrize(
    ("given", "same"),
    [({}, True), ({"learning_rate": 9}, True), ({"block_size": 8}, False), ({"batch_size": 5}, False)],
)
def test_same_batches_compares_the_shape_of_batches(given: dict[str, Any], same: bool) -> None:
    assert same_batches(SAVED, SAVED | given) is same


@pytest.mark.parametrize(
    ("manifest", "dataset", "expected"),
    [
        ({"data_fingerprint": "a"}, "words", False),  # another spelling
        ({"data_fingerprint": "b"}, "tiny", True),  # prepared again
        ({"data": "b"}, "tiny", True),  # of version 0.1
        ({"data": "a"}, "tiny", False),
        ({}, "tiny", False),
        (None, "tiny", False),
        (None, "data/tiny", False),
        (None, "words", True),
    ],
)
def test_other_data_are_told_by_fingerprint_or_else_by_name(
    manifest: dict[str, Any] | None, dataset: str, expected: bool
) -> None:
    assert has_other_data({"dataset": "tiny"}, manifest, {"dataset": dataset}, "a") is expected


def test_a_checkpoint_that_names_no_data_is_not_of_other_data() -> None:
    assert not has_other_data({}, None, {"dataset": "tiny"}, "a")


def test_the_command_that_goes_on_is_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert resume_command("out/a b", 1) == "python train.py --init_from=resume --out_dir='out/a b'"
    assert (
        resume_command("out", 2) == "torchrun --standalone --nproc_per_node=2 train.py --init_from=resume --out_dir=out"
    )
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert resume_command("out", 8) == "torchrun (as before) train.py --init_from=resume --out_dir=out"
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    monkeypatch.delenv("VIRTUAL_ENV")
    assert resume_command("out", 1) == ".venv/bin/python train.py --init_from=resume --out_dir=out"


def test_the_commands_that_train_and_sample_are_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert train_command("x.yaml --seed=1", 1) == "python train.py x.yaml --seed=1"
    assert train_command("x.yaml", 2) == "torchrun --standalone --nproc_per_node=2 train.py x.yaml"
    assert sample_command("out") == "python sample.py --out_dir=out"
    assert sample_command("out/a b", "cuda:1") == "python sample.py --out_dir='out/a b' --device=cuda:1"
