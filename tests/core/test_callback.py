"""Callbacks: empty by default, called in the documented order, and without effect on training."""

import inspect
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import core
import train
from core.callback import Callback, CallbackList

EVENTS = [
    "on_train_begin",
    "on_train_end",
    "on_step_begin",
    "on_step_end",
    "on_eval_begin",
    "on_eval_end",
    "on_checkpoint",
]


def test_every_method_does_nothing_by_default() -> None:
    methods = [name for name, _ in inspect.getmembers(Callback, inspect.isfunction)]

    assert sorted(methods) == sorted(EVENTS)
    for name in EVENTS:
        details = [None] * (len(inspect.signature(getattr(Callback, name)).parameters) - 1)
        assert getattr(Callback(), name)(*details) is None


class CallRecorder(Callback):
    """Records every call with its iteration, and the arguments of all calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.details: list[Any] = []

    def __getattribute__(self, name: str) -> Any:
        if name not in EVENTS:
            return super().__getattribute__(name)

        def record(trainer: core.Trainer, *details: Any) -> None:
            self.calls.append((name.removeprefix("on_"), trainer.iter_num))
            self.details += details

        return record


def test_an_interrupted_callback_does_not_end_the_others() -> None:
    class Abandoned(Callback):
        def on_train_begin(self, trainer: core.Trainer) -> None:
            raise core.Interrupted

    recorder = CallRecorder()
    CallbackList([Abandoned(), recorder]).emit("on_train_begin", SimpleNamespace(iter_num=0))  # type: ignore[arg-type]

    assert recorder.calls == [("train_begin", 0)]


def test_callbacks_are_called_around_every_part_of_a_run(run_dir: Path, tiny_argv: list[str]) -> None:
    recorder = CallRecorder()
    train.main([*tiny_argv, "--max_iters=2", "--eval_interval=2"], [recorder])

    step, evaluation = ["step_begin", "step_end"], ["eval_begin", "eval_end"]
    assert recorder.calls == [
        ("train_begin", 0),
        *[(name, 0) for name in evaluation + step],
        *[(name, 1) for name in step],
        *[(name, 2) for name in [*evaluation, "checkpoint", *step]],
        ("checkpoint", 3),
        ("train_end", 3),
    ]
    losses, first, _, _, path, _, last = recorder.details
    assert list(losses) == ["train", "val"] and losses["val"].dtype == torch.float32
    assert isinstance(first, core.StepResult) and first.loss.isfinite()
    assert (path, last) == (Path("out/ckpt-000001.pt"), Path("out/ckpt-000002.pt"))
    assert path.samefile("out/ckpt.pt")


def test_callbacks_do_not_change_training(run_dir: Path, tiny_argv: list[str]) -> None:
    results = [train.main([*tiny_argv, f"--out_dir={name}"], callbacks) for name, callbacks in
               (("plain", []), ("recorded", [CallRecorder(), Callback()]))]  # fmt: skip

    assert results[0] == results[1]
    plain, recorded = (torch.load(f"{name}/ckpt.pt", weights_only=True) for name in ("plain", "recorded"))
    assert all(torch.equal(plain["model"][name], value) for name, value in recorded["model"].items())
    assert torch.equal(plain["ranks"][0]["rng"]["cpu"], recorded["ranks"][0]["rng"]["cpu"])


def test_the_example_in_the_docstring_works(run_dir: Path, tiny_argv: list[str]) -> None:
    """The example stops a run whose validation loss has doubled; with a best loss of 0, at the first evaluation."""
    example = textwrap.dedent("    class Patience" + (inspect.getdoc(Callback) or "").split("class Patience")[1])
    names: dict[str, Any] = {"Callback": Callback}
    exec(example, names)

    class Perfect(Callback):
        def on_eval_end(self, trainer: core.Trainer, losses: dict[str, torch.Tensor]) -> None:
            trainer.counters.lowest_val_loss = 0.0

    recorder = CallRecorder()
    train.main(tiny_argv, [Perfect(), names["Patience"](), recorder])

    assert recorder.calls[-3:] == [("step_end", 0), ("checkpoint", 1), ("train_end", 1)]
