"""EarlyStopping: ends a run after evaluations that are no better, and does so again after an interruption."""

import signal
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import core
import train
from benchmark.soak.campaign import ranks
from core.callback import Callback
from core.checkpoint.format import load_checkpoint
from core.run_state import RunState
from extras.early_stopping import EarlyStopping
from tools.run_hash import run_hash


def judge(stopping: EarlyStopping, values: list[float], name: str = "val") -> list[int]:
    """Return the stale count after each evaluation."""
    counts = []
    for iter_num, value in enumerate(values):
        counters = RunState()
        counters.losses = {"train": torch.tensor(9.0), name: torch.tensor(value)}
        counters.metrics = {"val/accuracy": value}
        trainer: Any = SimpleNamespace(iter_num=iter_num, counters=counters)
        stopping.on_eval_end(trainer, counters.losses)
        counts.append(stopping.stale_count)
    return counts


def test_evaluations_without_an_improvement_are_counted() -> None:
    nan = float("nan")
    assert judge(EarlyStopping(), [2.0, 1.0, 1.0, 1.5, 0.9, nan]) == [0, 0, 1, 2, 0, 1]
    assert judge(EarlyStopping(), [nan, 2.0]) == [1, 0]
    assert judge(EarlyStopping(min_delta=0.5), [2.0, 1.75, 1.4375]) == [0, 1, 0]
    assert judge(EarlyStopping(mode="max", monitor="val/accuracy"), [0.5, 0.4, 0.6]) == [0, 1, 0]
    assert judge(EarlyStopping(monitor="train_loss"), [2.0, 1.0]) == [0, 1]


def test_an_evaluation_that_a_resume_repeats_is_counted_once() -> None:
    stopping = EarlyStopping()
    judge(stopping, [1.0, 2.0])
    trainer: Any = SimpleNamespace(iter_num=1, counters=RunState())
    stopping.on_eval_end(trainer, {"val": torch.tensor(2.0)})

    assert stopping.stale_count == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 0}, r"EarlyStopping\(patience=0\): wanted a whole number of 1 or more"),
        ({"patience": 1.5}, r"EarlyStopping\(patience=1.5\): wanted"),
        ({"min_delta": -1}, r"EarlyStopping\(min_delta=-1\): wanted a number of 0 or more"),
        ({"mode": "low"}, r"EarlyStopping\(mode='low'\): wanted min or max"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(core.ConfigError, match=message):
        EarlyStopping(**arguments)


def test_an_unknown_metric_is_named_with_those_that_there_are(run_dir: Path, tiny_argv: list[str]) -> None:
    with pytest.raises(
        core.ConfigError, match=r"monitor='bleu'\): this run's evaluations measure train_loss, val_loss;"
    ):
        train.main(tiny_argv, [EarlyStopping(monitor="bleu")])


# a run that stops at iteration 2: no evaluation after the first is better by so much
ARGV = ["--eval_interval=1", "--max_iters=9"]


def stopping() -> EarlyStopping:
    return EarlyStopping(patience=2, min_delta=100.0)


def test_the_run_ends_with_its_reason_and_a_final_checkpoint(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    best = train.main([*tiny_argv, *ARGV], [stopping()])

    found = core.CheckpointManager("out").load()
    assert found.manifest is not None and found.manifest["iter_num"] == 3
    assert best == load_checkpoint(found.path)["lowest_val_loss"]
    error = capsys.readouterr().err
    assert "early stopping: no better val_loss in 1 of 2 evaluations\n" in error
    assert error.count("stopping after iteration 2: no better val_loss in 2 evaluations (best: 2.") == 1


class StopAt(Callback):
    """Sends SIGTERM to the process at an event of one iteration."""

    def __init__(self, iter_num: int, event: str) -> None:
        self.iter_num = iter_num
        setattr(self, event, self.send_signal)

    def send_signal(self, trainer: core.Trainer, *_: object) -> None:
        if trainer.iter_num == self.iter_num:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("iter_num", [1, 2])
@pytest.mark.parametrize("event", ["on_eval_begin", "on_eval_end", "on_step_begin", "on_step_end"])
def test_an_interrupted_run_stops_where_the_undisturbed_one_does(
    run_dir: Path, tiny_argv: list[str], iter_num: int, event: str
) -> None:
    train.main([*tiny_argv, *ARGV, "--out_dir=whole"], [stopping()])
    with suppress(core.PreemptedError):  # after the last update the run just ends
        train.main([*tiny_argv, *ARGV], [stopping(), StopAt(iter_num, event)])
    train.main([*tiny_argv, *ARGV, "--init_from=resume"], [stopping()])

    assert run_hash("out") == run_hash("whole")


def test_a_run_that_was_stopped_stops_at_once_until_patience_is_raised(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, *ARGV], [stopping()])
    names = sorted(path.name for path in Path("out").iterdir())
    train.main([*tiny_argv, *ARGV, "--init_from=auto"], [stopping()])
    assert sorted(path.name for path in Path("out").iterdir()) == names

    train.main([*tiny_argv, *ARGV, "--init_from=auto"], [EarlyStopping(patience=4, min_delta=100.0)])
    found = core.CheckpointManager("out").load()
    assert found.manifest is not None and found.manifest["iter_num"] == 5


def test_two_processes_stop_together_and_stay_stopped(run_dir: Path, tiny_argv: list[str]) -> None:
    for start in ("scratch", "resume"):
        argv = [*tiny_argv, *ARGV, f"--init_from={start}"]
        assert ranks(lambda argv=argv: train.main(argv, [stopping()])) == [0, 0]  # type: ignore[misc]
        found = core.CheckpointManager("out").load()
        assert found.manifest is not None and found.manifest["iter_num"] == 3
