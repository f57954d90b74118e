"""EMA: the average of the weights, the same after an interruption, and without undone updates after a rollback."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import core
import sample
import train
from benchmark.soak.campaign import ranks
from core.callback import Callback
from core.checkpoint.format import load_checkpoint
from extras import ema
from extras.ema import EMA
from model import GPT
from tests.comparing import assert_same
from tests.core.late_flags import LateFlags
from tests.extras.test_early_stopping import StopAt
from tools.run_hash import run_hash

Weights = dict[str, torch.Tensor]


class WeightRecorder(Callback):
    """Keeps the weights after each update, those of an undone update until it is made anew; -1: before the first."""

    def __init__(self) -> None:
        self.after: dict[int, Weights] = {}

    def on_step_begin(self, trainer: core.Trainer) -> None:
        self.keep(trainer, trainer.iter_num - 1)

    def on_step_end(self, trainer: core.Trainer, result: core.StepResult) -> None:
        self.keep(trainer, trainer.iter_num)

    def keep(self, trainer: core.Trainer, iter_num: int) -> None:
        self.after[iter_num] = {name: weight.detach().clone() for name, weight in trainer.raw_model.named_parameters()}

    def average(self, decay: float, warm_up: bool = False) -> Weights:
        """Return the average by the formula, in float64."""
        result = {name: weight.double() for name, weight in self.after[-1].items()}
        for n in range(len(self.after) - 1):
            d = min(decay, (1 + n) / (10 + n)) if warm_up else decay
            result = {name: d * old + (1 - d) * self.after[n][name].double() for name, old in result.items()}
        return result


def require_close(averages: Weights, expected: Weights) -> None:
    assert averages.keys() == expected.keys()
    for name, average in averages.items():
        assert average.dtype == torch.float32
        torch.testing.assert_close(average.double(), expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("warm_up", [False, True])
def test_the_average_follows_its_formula(run_dir: Path, tiny_argv: list[str], warm_up: bool) -> None:
    average, recorder = EMA(0.8, warm_up=warm_up), WeightRecorder()
    train.main(tiny_argv, [average, recorder])

    assert average.updates == 7
    require_close(average.averages, recorder.average(0.8, warm_up))


def test_it_does_not_change_training(run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for folder, callbacks in (("plain", []), ("averaged", [EMA()])):
        train.main([*tiny_argv, f"--out_dir={folder}"], callbacks)
    plain, averaged = (load_checkpoint(core.CheckpointManager(name).load().path) for name in ("plain", "averaged"))
    for checkpoint in (plain, averaged):
        for key in ("config", "run", "loggers", "callbacks"):
            del checkpoint[key]

    assert_same(plain, averaged)
    assert "averaged/ema.pt: the average of the weights over 7 updates\n" in capsys.readouterr().err


@pytest.mark.parametrize(("iter_num", "event"), [(0, "on_step_begin"), (2, "on_step_end"), (3, "on_eval_begin")])
def test_an_interrupted_run_has_the_average_of_the_undisturbed_one(
    run_dir: Path, tiny_argv: list[str], iter_num: int, event: str
) -> None:
    train.main([*tiny_argv, "--out_dir=whole"], [EMA(0.9)])
    with pytest.raises(core.PreemptedError):
        train.main(tiny_argv, [EMA(0.9), StopAt(iter_num, event)])
    train.main([*tiny_argv, "--init_from=auto", "--async_save=True"], [EMA(0.9)])

    assert run_hash("out") == run_hash("whole")
    assert_same(*(load_checkpoint(f"{folder}/ema.pt")["model"] for folder in ("out", "whole")))


class Fails(Callback):
    """Raises an error at an event of iteration 4."""

    def __init__(self, event: str) -> None:
        setattr(self, event, self.fail)

    def fail(self, trainer: core.Trainer, *_: object) -> None:
        if trainer.iter_num == 4:
            raise LookupError("mine")


@pytest.mark.parametrize("event", ["on_step_begin", "on_step_end"])
@pytest.mark.parametrize("is_first", [True, False])
def test_an_error_in_another_callback_loses_no_update(
    run_dir: Path, tiny_argv: list[str], event: str, is_first: bool
) -> None:
    """If the other callback is first and fails after the update, the average is saved without that update."""
    train.main([*tiny_argv, "--out_dir=whole"], [EMA(0.9)])
    callbacks = [Fails(event), EMA(0.9)] if is_first else [EMA(0.9), Fails(event)]
    with pytest.raises(LookupError):
        train.main(tiny_argv, callbacks)
    train.main([*tiny_argv, "--init_from=resume"], [EMA(0.9)])

    assert run_hash("out") == run_hash("whole")


class Poison(Callback):
    """Makes one weight NaN before the update of an iteration, once; with `late`, verdicts come late, as on a GPU."""

    def __init__(self, iter_num: int, late: bool) -> None:
        self.iter_num, self.late, self.is_done = iter_num, late, False

    def on_train_begin(self, trainer: core.Trainer) -> None:
        if self.late:
            trainer.monitor.flags = LateFlags(torch.device("cpu"))

    def on_step_begin(self, trainer: core.Trainer) -> None:
        if trainer.iter_num == self.iter_num and not self.is_done:
            self.is_done = True
            with torch.no_grad():
                next(trainer.raw_model.parameters())[0, 0] = float("nan")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("iter_num", [2, 5])  # before the first checkpoint, and after one of iteration 3
def test_an_undone_update_does_not_stay_in_the_average(
    run_dir: Path, tiny_argv: list[str], iter_num: int, late: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    average, recorder = EMA(0.8), WeightRecorder()
    train.main(tiny_argv, [average, recorder, Poison(iter_num, late)])

    assert "recovery 1 of 3" in capsys.readouterr().err
    assert average.updates == 7
    require_close(average.averages, recorder.average(0.8))


def test_the_weights_can_be_swapped_in_and_come_back_to_the_bit(run_dir: Path, tiny_argv: list[str]) -> None:
    average, seen = EMA(0.5), []

    class Swaps(Callback):
        def on_eval_begin(self, trainer: core.Trainer) -> None:
            model = trainer.raw_model
            own = {name: weight.clone() for name, weight in model.state_dict().items()}
            with pytest.raises(LookupError), average.applied(torch.nn.parallel.DataParallel(model)):
                assert all(torch.equal(dict(model.named_parameters())[n], t) for n, t in average.averages.items())
                seen.append(any(not torch.equal(weight, own[name]) for name, weight in model.state_dict().items()))
                raise LookupError
            assert_same(dict(model.state_dict()), own)

    train.main([*tiny_argv, "--out_dir=plain"])
    train.main(tiny_argv, [average, Swaps()])

    assert seen == [False, True, True]
    plain, swapped = (load_checkpoint(f"{folder}/ckpt.pt")["model"] for folder in ("plain", "out"))
    assert_same(dict(plain), dict(swapped))


def test_the_file_has_nanogpts_keys_and_can_be_sampled(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    average = EMA(0.5)
    train.main(tiny_argv, [average])
    checkpoint = torch.load("out/ema.pt", weights_only=True)

    assert list(checkpoint) == ["model", "model_args", "iter_num", "best_val_loss", "config", "tokenizer"]
    assert checkpoint["iter_num"] == 7 and checkpoint["config"]["dataset"] == "tiny"
    state = checkpoint["model"]
    assert list(state) == list(load_checkpoint("out/ckpt.pt")["model"])
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
    assert all(torch.equal(state[name], tensor) for name, tensor in average.averages.items())

    capsys.readouterr()
    argv = [
        "--out_dir=out",
        "--checkpoint=ema.pt",
        "--device=cpu",
        "--num_samples=1",
        "--max_new_tokens=5",
        "--start=a",
    ]
    sample.main(argv)
    output = capsys.readouterr()
    assert "model: out/ema.pt, iteration 7 of 7" in output.err and "\na" in output.out


def test_buffers_and_other_types_are_those_of_the_model() -> None:
    model: Any = torch.nn.BatchNorm1d(3).to(torch.bfloat16)
    model.register_parameter("codes", torch.nn.Parameter(torch.tensor([3]), requires_grad=False))
    average = EMA(0.5)
    average.averages = {name: torch.full((3,), 2.0) for name in ("weight", "bias")}

    state = average._model_state(model)

    assert list(state) == list(model.state_dict())
    assert state["running_var"] is not None and torch.equal(state["running_var"], model.running_var)
    assert torch.equal(state["codes"], model.codes)
    assert state["weight"].dtype == torch.bfloat16 and state["weight"].tolist() == [2.0] * 3


def test_a_new_run_moves_the_file_of_the_previous_one(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, "--max_iters=1"], [EMA()])
    train.main([*tiny_argv, "--max_iters=1"])

    assert Path("out/previous-1/ema.pt").is_file() and not Path("out/ema.pt").exists()


def test_an_evaluation_writes_no_file(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main(tiny_argv, [EMA()])
    Path("out/ema.pt").unlink()
    train.main([*tiny_argv, "--init_from=resume", "--eval_only=True"], [EMA()])

    assert not Path("out/ema.pt").exists()


def test_a_full_disk_is_reported_and_a_resume_writes_the_file(
    run_dir: Path, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, write: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ema, "write_atomically", full)
        train.main(tiny_argv, [EMA(0.9)])
    assert "out/ema.pt could not be written (No space left on device): the average is in" in capsys.readouterr().err
    train.main([*tiny_argv, "--init_from=resume"], [EMA(0.9)])
    train.main([*tiny_argv, "--out_dir=whole"], [EMA(0.9)])

    assert_same(*(load_checkpoint(f"{folder}/ema.pt")["model"] for folder in ("out", "whole")))


def test_an_average_of_other_weights_begins_anew(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    average = EMA()
    average.load_state_dict({"averages": {"other": torch.zeros(2)}, "updates": 5, "next_iter": 0})
    train.main([*tiny_argv, "--max_iters=1"], [average])

    assert "EMA: the average in the checkpoint is of other weights: it begins anew" in capsys.readouterr().err
    assert average.updates == 2


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_wrong_decay_is_refused(decay: float) -> None:
    with pytest.raises(core.ConfigError, match=r"^EMA\(decay=.*\): wanted a number from 0 to below 1"):
        EMA(decay)


def test_two_processes_write_one_file_with_the_same_average(run_dir: Path, tiny_argv: list[str]) -> None:
    def work() -> None:
        average = EMA(0.9)
        train.main([*tiny_argv, "--max_iters=3"], [average])
        torch.save(average.averages, f"rank{os.environ['RANK']}.pt")

    assert ranks(work) == [0, 0]
    ours, theirs = (torch.load(f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(ours, theirs)
    assert all(torch.equal(load_checkpoint("out/ema.pt")["model"][name], tensor) for name, tensor in ours.items())


def test_no_average_leaves_the_model_as_it_is(tiny_model: GPT) -> None:
    before = {name: weight.clone() for name, weight in tiny_model.state_dict().items()}
    with EMA().applied(tiny_model):
        assert_same(dict(tiny_model.state_dict()), before)
