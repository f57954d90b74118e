"""An error that ends a run: the state after its last whole update is saved, and a resume ends as if undisturbed."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import core
import model
import train
from data.token_bins import TokenBins
from tools.run_hash import run_hash

LAST = 7  # iter_num after the 7 updates of tiny_argv


class Oops(Exception):
    """An error of the user's own code."""


class Counting(core.Callback):
    """Counts updates; `failing` makes it raise Oops at one moment of one iteration."""

    def __init__(self, moment: str = "", iter_num: int = -1) -> None:
        self.moment, self.iter_num, self.seen = moment, iter_num, 0

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]

    def on_step_end(self, trainer: core.Trainer, result: Any) -> None:
        self.seen += 1


def failing(moment: str, iter_num: int) -> core.Callback:
    callback = Counting(moment, iter_num)
    method = getattr(callback, moment)

    def fail(trainer: core.Trainer, *details: Any) -> None:
        method(trainer, *details)
        if trainer.iter_num == iter_num:
            raise Oops(moment)

    setattr(callback, moment, fail)
    return callback


def saved_at() -> int | None:
    manifest = core.CheckpointManager("out").load().manifest
    return None if manifest is None else manifest["iter_num"]


UNDISTURBED: list[str] = []  # its hash, once it is known


@pytest.fixture
def expected(run_dir: Path, tiny_argv: list[str]) -> str:
    """Return the hash of the undisturbed run, in a folder with data/tiny."""
    if not UNDISTURBED:
        train.main([*tiny_argv, "--out_dir=undisturbed"], [Counting()])
        UNDISTURBED.append(run_hash("undisturbed"))
    return UNDISTURBED[0]


@pytest.mark.parametrize("iter_num", [1, 3, 6])
@pytest.mark.parametrize("moment", ["on_step_begin", "on_step_end"])
def test_a_callback_that_fails_costs_no_update(
    expected: str, tiny_argv: list[str], moment: str, iter_num: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with pytest.raises(Oops):
        train.main(tiny_argv, [failing(moment, iter_num)])

    whole = iter_num + (moment == "on_step_end")
    assert saved_at() == whole
    command = "train.py --init_from=resume --out_dir=out"
    assert caplog.messages[-1].startswith(f"an error ends the run: saved at iteration {whole}; to go on: ")
    assert caplog.messages[-1].endswith(command)
    train.main([*tiny_argv, "--init_from=resume"], [Counting()])
    assert run_hash("out") == expected


@pytest.mark.parametrize("moment", ["on_eval_begin", "on_eval_end", "on_checkpoint"])
@pytest.mark.parametrize("options", [[], ["--always_save_checkpoint=False"]])
def test_a_callback_that_fails_at_an_evaluation_costs_nothing(
    run_dir: Path, tiny_argv: list[str], moment: str, options: list[str]
) -> None:
    argv = [*tiny_argv, *options]
    train.main([*argv, "--out_dir=undisturbed"], [Counting()])
    with pytest.raises(Oops):
        train.main(argv, [failing(moment, 3)])

    assert saved_at() == 3
    train.main([*argv, "--init_from=resume"], [Counting()])
    assert run_hash("out") == run_hash("undisturbed")
    linked = [torch.load(f"{out}/ckpt.pt", weights_only=True)["iter_num"] for out in ("out", "undisturbed")]
    assert linked[0] == linked[1]


def fail_at(call: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that fails at one of its calls, after it has done its work and drawn its random numbers."""
    calls = 0

    def function(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        result = real(*args, **kwargs)
        calls += 1
        if calls == call:
            raise core.DataError("the data are gone")
        return result

    return function


@pytest.mark.parametrize("call", [8, 10, 13, 17, 23])
@pytest.mark.parametrize(
    ("owner", "name"), [(TokenBins, "get_batch"), (core.LanguageModeling, "__call__")], ids=["data", "objective"]
)
def test_data_and_objectives_that_fail_cost_no_update(
    expected: str, tiny_argv: list[str], owner: Any, name: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of training and of evaluations, the first and the second micro-batch of an update."""
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail_at(call, getattr(owner, name)))
        with pytest.raises(core.DataError, match="the data are gone"):
            train.main(tiny_argv, [counting := Counting()])

    assert 0 < counting.seen < LAST and saved_at() == counting.seen
    train.main([*tiny_argv, "--init_from=resume"], [Counting()])
    assert run_hash("out") == expected


def fail_before(call: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that fails at one of its calls, and does nothing then."""
    calls = iter(range(1, 100))

    def function(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise core.DataError("the data are gone")
        return real(*args, **kwargs)

    return function


@pytest.mark.parametrize("kernel", ["plain", "fused"])
@pytest.mark.parametrize(("fail", "whole"), [(fail_before, 4), (fail_at, 5)], ids=["before", "after"])
def test_an_optimizer_that_fails_before_or_after_it_changes_the_weights(
    run_dir: Path,
    tiny_argv: list[str],
    fail: Callable[..., Any],
    whole: int,
    kernel: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure = model.GPT.configure_optimizers
    device = "cuda" if kernel == "fused" else "cpu"  # the type that decides about the kernel
    monkeypatch.setattr(model.GPT, "configure_optimizers", lambda *args: configure(*args[:-1], device))
    argv = [*tiny_argv, "--spike_threshold=20", "--spike_window=8"]
    train.main([*argv, "--out_dir=undisturbed"], [Counting()])
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", fail(5, torch.optim.AdamW.step))
        with pytest.raises(core.DataError):
            train.main(argv, [Counting()])

    assert saved_at() == whole
    train.main([*argv, "--init_from=resume"], [Counting()])
    assert run_hash("out") == run_hash("undisturbed")


def test_a_callback_that_fails_as_well_does_not_hinder_the_save(
    run_dir: Path, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", fail_at(5, torch.optim.AdamW.step))
    with pytest.raises(core.DataError, match="the data are gone"):
        train.main(tiny_argv, [failing("on_step_end", 4)])

    assert saved_at() == 5


def test_weights_that_may_be_half_changed_are_not_saved(
    run_dir: Path, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = sys.modules[torch.optim.Adam.__module__]
    monkeypatch.setattr(module, "adam", fail_at(9, module.adam))  # called for each of two groups of parameters
    with pytest.raises(core.DataError):
        train.main([*tiny_argv, "--save_interval=2"])

    assert saved_at() == 4
    end = "the weights may be half changed, and are not saved, the last checkpoint is untouched; to go on: "
    assert caplog.messages[-1].startswith(f"an error ends the run: {end}")


def test_the_verdict_on_an_update_is_heard_before_it_is_saved(
    run_dir: Path, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The update in which the optimizer fails is unstable: its weights must not be saved."""

    def unstable(self: Any, *args: Any) -> list[torch.Tensor]:
        flags = inspect(self, *args)
        return [torch.tensor(self.seen == 5), *flags[1:]]

    inspect = core.InstabilityDetector.inspect
    monkeypatch.setattr(core.InstabilityDetector, "inspect", unstable)
    monkeypatch.setattr(core.Recovery, "suppresses_updates", False)
    monkeypatch.setattr(torch.optim.AdamW, "step", fail_at(5, torch.optim.AdamW.step))
    with pytest.raises(core.DataError):
        train.main([*tiny_argv, "--save_interval=2", "--on_instability=stop"])

    assert saved_at() == 4 and "its state could not be saved (DivergedError: iteration 4: " in caplog.messages[-1]


def test_before_the_first_update_there_is_nothing_to_save(
    run_dir: Path, tiny_argv: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Oops):
        train.main(tiny_argv, [failing("on_step_begin", 0)])

    assert not list(Path("out").glob("ckpt*")) and "an error ends" not in caplog.text


def test_a_state_that_cannot_be_saved_does_not_hide_the_error(
    run_dir: Path, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("core.checkpoint.writer.TorchFile.write", full)
    with pytest.raises(Oops):
        train.main(tiny_argv, [failing("on_step_end", 4)])

    assert "an error ends the run: its state could not be saved (SaveError: " in caplog.messages[-1]


def test_an_error_in_an_evaluation_alone_saves_nothing(
    run_dir: Path, tiny_argv: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    train.main(tiny_argv)
    before = sorted(path.name for path in Path("out").iterdir())
    with pytest.raises(Oops):
        train.main([*tiny_argv, "--init_from=resume", "--eval_only=True"], [failing("on_eval_end", LAST)])

    assert sorted(path.name for path in Path("out").iterdir()) == before and "an error ends" not in caplog.text


def test_an_error_in_an_evaluation_of_another_sampling_saves_nothing(run_dir: Path, tiny_argv: list[str]) -> None:
    """The resume is not exact, so its evaluation would be saved if the run went on."""
    train.main(tiny_argv)
    before = sorted(path.name for path in Path("out").iterdir())
    argv = [*tiny_argv, "--init_from=resume", "--resume_rng=reseed", "--eval_only=True"]
    with pytest.raises(Oops):
        train.main(argv, [failing("on_eval_end", LAST)])

    assert sorted(path.name for path in Path("out").iterdir()) == before


def test_a_callback_that_fails_after_the_save_does_not_undo_it(
    run_dir: Path, tiny_argv: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It fails again when the state after the failure in `on_step_end` is saved."""

    class Uploads(Counting):
        def on_checkpoint(self, trainer: core.Trainer, path: Path) -> None:
            raise OSError("upload failed")

    class Both(core.Callback):
        def on_step_end(self, trainer: core.Trainer, result: Any) -> None:
            if trainer.iter_num == 4:
                raise Oops

    with pytest.raises(Oops):
        train.main([*tiny_argv, "--eval_interval=100"], [Uploads(), Both()])

    assert saved_at() == 5
    assert caplog.messages[-1].startswith("an error ends the run: saved at iteration 5; to go on: ")


def test_a_failed_upload_of_the_save_before_does_not_cost_ckpt_pt_its_link(run_dir: Path, tiny_argv: list[str]) -> None:
    """The save in the background is reported when the next evaluation saves."""

    class Uploads(Counting):
        def on_checkpoint(self, trainer: core.Trainer, path: Path) -> None:
            if trainer.iter_num == 6:
                raise OSError("upload failed")

    argv = [*tiny_argv, "--async_save=True", "--always_save_checkpoint=False"]
    with pytest.raises(OSError, match="upload failed"):
        train.main(argv, [Uploads()])

    assert torch.load("out/ckpt.pt", weights_only=True)["iter_num"] == 6


def test_a_callback_that_cannot_go_back_in_a_rollback_saves_nothing(
    run_dir: Path, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The weights are those of the checkpoint again, but the unstable update is not forgotten yet."""

    class Stuck(Counting):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise Oops("load")

    real, calls = core.LanguageModeling.__call__, iter(range(100))

    def unstable(*args: Any, **kwargs: Any) -> Any:
        output = real(*args, **kwargs)
        return output._replace(loss=output.loss * torch.nan) if next(calls) == 11 else output

    monkeypatch.setattr(core.LanguageModeling, "__call__", unstable)
    with pytest.raises(Oops, match="load"):
        train.main([*tiny_argv, "--save_interval=1"], [Stuck()])

    assert "the weights may be half changed, and are not saved" in caplog.messages[-1]
    assert len(list(Path("out").glob("ckpt-*.pt"))) == len(list(Path("out").glob("ckpt-*.json")))
    train.main([*tiny_argv, "--init_from=resume"])


def test_an_objective_that_changes_its_state_in_place_is_undone(
    run_dir: Path, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = core.LanguageModeling.__call__, torch.tensor(0.0)

    def stateful(*args: Any, **kwargs: Any) -> Any:
        calls.add_(1)
        output = real(*args, **kwargs)
        return output._replace(loss=output.loss * (1 + calls % 5 / 10))

    monkeypatch.setattr(core.LanguageModeling, "__call__", stateful)
    monkeypatch.setattr(core.LanguageModeling, "state_dict", lambda _: {"calls": calls}, raising=False)
    load = lambda _, state: calls.copy_(state["calls"])  # noqa: E731
    monkeypatch.setattr(core.LanguageModeling, "load_state_dict", load, raising=False)
    train.main([*tiny_argv, "--out_dir=undisturbed"])
    calls.zero_()
    with monkeypatch.context() as patch:
        patch.setattr(TokenBins, "get_batch", fail_at(18, TokenBins.get_batch))
        with pytest.raises(core.DataError, match="the data are gone"):
            train.main(tiny_argv)

    train.main([*tiny_argv, "--init_from=resume"])
    assert run_hash("out") == run_hash("undisturbed")


def test_a_rollback_that_fails_saves_nothing(
    run_dir: Path, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The checkpoint to go back to cannot be read, and the update that was unstable is not made."""

    def unreadable(*_: Any) -> None:
        raise core.CheckpointError("the disk is gone")

    real, calls = core.LanguageModeling.__call__, iter(range(100))

    def unstable(*args: Any, **kwargs: Any) -> Any:
        output = real(*args, **kwargs)
        return output._replace(loss=output.loss * torch.nan) if next(calls) == 15 else output

    monkeypatch.setattr("core.checkpoint.writer.TorchFile.read", unreadable)
    monkeypatch.setattr(core.LanguageModeling, "__call__", unstable)
    with pytest.raises(core.CheckpointError, match="the disk is gone"):
        train.main(tiny_argv)

    assert saved_at() == 3 and "the weights may be half changed, and are not saved" in caplog.messages[-1]


def test_the_end_of_a_forked_process_saves_nothing(run_dir: Path, tiny_argv: list[str]) -> None:
    class Forks(core.Callback):
        def on_step_end(self, trainer: core.Trainer, result: Any) -> None:
            if trainer.iter_num == 4 and os.fork() == 0:
                raise SystemExit

    parent = os.getpid()
    try:
        train.main([*tiny_argv, "--max_iters=4"], [Forks()])
    except SystemExit:
        os._exit(0 if sorted(path.name for path in Path("out").glob("ckpt-*.pt")) == ["ckpt-000001.pt"] else 1)
    finally:
        if os.getpid() != parent:
            os._exit(2)
    assert os.wait()[1] == 0
