"""EventCallback: callbacks of the C line run as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import core
import train
from benchmark.soak.campaign import ranks
from core.callback import Callback
from core.checkpoint.format import load_checkpoint
from extras.event_callbacks import EVENTS, EventCallback, find_calls, has_events, needs_adapter
from tests.extras.test_epoch_meter import TrainingState
from tools.run_hash import run_hash

EPOCH_EVENTS = {"on_epoch_begin", "on_epoch_end", "on_batch_begin", "on_batch_end", "on_validation_begin"}
EPOCH_EVENTS |= {"on_validation_end"}


class Everything:
    """A callback of the C line with all eight events, as in its trainer."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_train_begin(self, **kwargs: Any) -> None:
        self.calls.append(("train_begin", kwargs))

    def on_train_end(self) -> None:
        self.calls.append("train_end")

    def on_epoch_begin(self, epoch: int) -> None:
        self.calls.append(("epoch_begin", epoch))

    def on_epoch_end(self, epoch: int, **kwargs: Any) -> None:
        self.calls.append(("epoch_end", epoch, sorted(kwargs)))

    def on_batch_begin(self, batch_idx: int, **kwargs: Any) -> None:
        self.calls.append(("batch_begin", batch_idx))

    def on_batch_end(self, state: TrainingState, **kwargs: Any) -> None:
        self.calls.append(("batch_end", state.batch_idx, state.global_step, kwargs))

    def on_validation_begin(self) -> None:
        self.calls.append("validation_begin")

    def on_validation_end(self, metrics: dict[str, float], **kwargs: Any) -> None:
        self.calls.append(("validation_end", sorted(metrics)))


def test_all_eight_events_come_in_order(run_dir: Path, tiny_argv: list[str]) -> None:
    callback = Everything()
    argv = [*tiny_argv, "--batch_size=32", "--max_iters=2", "--eval_interval=2"]  # 1024 tokens of 2000 per update
    train.main(argv, [callback])

    def batch(batch_idx: int, step: int) -> list[Any]:
        return [("batch_begin", batch_idx), ("batch_end", batch_idx, step, {})]

    validation = ["validation_begin", ("validation_end", ["train_loss", "val_loss"])]
    known = {"num_epochs": 2, "batch_size": 32, "model_info": {"model_type": "GPT"}}
    in_kwargs = ["learning_rate", "loss", "total_epochs"]
    assert callback.calls == [
        ("train_begin", known),
        *validation,
        ("epoch_begin", 0),
        *batch(0, 1),
        *batch(1, 2),
        ("epoch_end", 0, in_kwargs),
        *validation,
        ("epoch_begin", 1),
        *batch(0, 3),
        ("epoch_end", 1, in_kwargs),  # it ends with the run
        "train_end",
    ]


def test_callbacks_of_the_c_line_do_not_change_training(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for folder, callbacks in (("plain", []), ("watched", [Everything()])):
        train.main([*tiny_argv, f"--out_dir={folder}"], callbacks)
        output = capsys.readouterr().out.replace(folder, "")
        outputs.append([line.split(", time")[0] for line in output.splitlines()])

    assert outputs[0] == outputs[1]
    plain, watched = (load_checkpoint(f"{folder}/ckpt.pt") for folder in ("plain", "watched"))
    assert all(torch.equal(plain["model"][name], weight) for name, weight in watched["model"].items())
    assert plain["callbacks"] == {}


SIGNATURES: list[tuple[str, Callable[..., Any], tuple[list[str], dict[str, str]]]] = [
    ("on_batch_end", lambda self, state: None, (["state"], {})),
    ("on_batch_end", lambda self, state, **kwargs: None, (["state"], {})),
    ("on_batch_end", lambda self, s: None, (["state"], {})),
    ("on_batch_end", lambda self, *args: None, (["state"], {})),
    ("on_batch_end", lambda self, batch_idx, loss: None, (["batch_idx", "loss"], {})),
    ("on_batch_end", lambda self, trainer, s, *, metrics: None, (["trainer", "state"], {"metrics": "metrics"})),
    ("on_batch_end", lambda self, logs=None, model=None: None, (["state", "model"], {})),
    ("on_train_begin", lambda self: None, ([], {})),
    ("on_train_begin", lambda self, logs=None, model=None: None, ([], {"model": "model"})),
    ("on_train_begin", lambda self, t: None, (["trainer"], {})),
    ("on_train_begin", lambda self, num_epochs, **kwargs: None,
     (["num_epochs"], {"batch_size": "batch_size", "model_info": "model_info"})),
    ("on_epoch_end", lambda self, epoch, metrics=None: None, (["epoch", "metrics"], {})),
    ("on_epoch_end", lambda self, number, *, option=1: None, (["epoch"], {})),
    ("on_validation_begin", lambda self, epoch=0: None, (["epoch"], {})),
    ("on_validation_end", lambda self, metrics: None, (["metrics"], {})),
    ("on_step_end", lambda self, t, r: None, (["trainer", "result"], {})),
    ("on_step_end", lambda self, result: None, (["result"], {})),
    ("on_checkpoint", lambda self, trainer, path: None, (["trainer", "path"], {})),
]  # fmt: skip


@pytest.mark.parametrize(("event", "method", "expected"), SIGNATURES)
def test_a_method_is_given_what_it_takes(
    event: str, method: Callable[..., Any], expected: tuple[list[str], dict[str, str]]
) -> None:
    listener = type("Listener", (), {event: method})()

    assert find_calls(listener) == {event: expected}


def test_a_parameter_that_nothing_is_known_for_is_refused(run_dir: Path, tiny_argv: list[str]) -> None:
    class Asks:
        def on_epoch_end(self, epoch: int, bleu: float) -> None: ...

    with pytest.raises(
        core.ConfigError, match=r"^callbacks\[0\]: Asks.on_epoch_end takes bleu, which nothing is known"
    ):
        train.main(tiny_argv, [Asks()])
    assert not Path("out").exists()


class Mixed(Callback):
    """Events of ours and of the C line in one class."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_step_end(self, trainer: core.Trainer, result: core.StepResult) -> None:
        assert result.loss.isfinite()
        self.calls.append(f"step {trainer.iter_num}")

    def on_batch_end(self, state: TrainingState) -> None:
        self.calls.append(f"batch {state.batch_idx}")

    def on_checkpoint(self, trainer: core.Trainer, path: Path) -> None:
        self.calls.append(path.name)


def test_a_class_with_events_of_both_kinds_gets_both(run_dir: Path, tiny_argv: list[str]) -> None:
    mixed = Mixed()
    train.main([*tiny_argv, "--max_iters=1"], [mixed])

    assert mixed.calls == ["step 0", "batch 0", "step 1", "batch 1", "ckpt-000001.pt"]


def test_only_what_is_no_plain_callback_gets_an_adapter() -> None:
    class Ours(Callback):
        pass

    class Duck:
        def on_step_end(self, trainer: core.Trainer, result: core.StepResult) -> None: ...

    assert [needs_adapter(listener) for listener in (Ours(), Duck(), Mixed(), Everything())] == [
        False,
        True,
        True,
        True,
    ]
    assert all(map(has_events, (Ours, Ours(), Duck, Mixed, Everything())))
    assert not has_events(object()) and not has_events(dict)
    assert {event for event in EVENTS if not hasattr(Callback, event)} == EPOCH_EVENTS


class AfterTwo:
    """Asks for the end after two updates, in the way that it is told."""

    def __init__(self, way: str) -> None:
        self.way, self.updates = way, 0
        if way == "should_stop_training":
            self.should_stop_training = lambda: self.updates >= 2
        else:
            setattr(self, way, False)

    def on_batch_end(self, state: TrainingState) -> None:
        self.updates = state.global_step
        if self.way != "should_stop_training":
            setattr(self, self.way, state.global_step >= 2)


@pytest.mark.parametrize("way", ["should_stop_training", "stop_training", "should_stop"])
def test_a_callback_can_stop_the_run(
    run_dir: Path, tiny_argv: list[str], way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(tiny_argv, [AfterTwo(way)])

    assert f"stopping after iteration 1: AfterTwo.{way} is true\n" in capsys.readouterr().err
    assert load_checkpoint("out/ckpt-000001.pt")["iter_num"] == 2


def test_a_method_that_others_call_to_stop_is_not_called(run_dir: Path, tiny_argv: list[str]) -> None:
    class Switch:
        def stop_training(self) -> None:
            raise AssertionError("nobody asked for it")

        def on_batch_end(self, state: TrainingState) -> None: ...

    train.main([*tiny_argv, "--max_iters=1"], [Switch()])

    assert load_checkpoint("out/ckpt-000001.pt")["iter_num"] == 2


def test_one_rank_that_asks_for_the_end_stops_all(run_dir: Path, tiny_argv: list[str]) -> None:
    class OnRank1:
        should_stop = False

        def on_batch_end(self, trainer: core.Trainer, state: TrainingState) -> None:
            self.should_stop = trainer.runtime.rank == 1 and state.global_step >= 2

    assert ranks(lambda: train.main(tiny_argv, [OnRank1()])) == [0, 0]  # type: ignore[arg-type,return-value]
    assert load_checkpoint("out/ckpt-000001.pt")["iter_num"] == 3  # one later than alone


class Counter:
    """A callback of the C line with a state."""

    def __init__(self) -> None:
        self.seen = 0

    def on_batch_end(self, state: TrainingState) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


def test_its_state_is_saved_under_its_own_class_name(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, "--out_dir=whole"], [Counter(), Counter()])
    train.main([*tiny_argv, "--max_iters=3"], [Counter(), Counter()])
    train.main([*tiny_argv, "--init_from=resume"], [Counter(), Counter()])

    states = load_checkpoint("out/ckpt.pt")["callbacks"]
    assert list(states) == ["EpochMeter", "Counter", "Counter-2"]
    assert states["Counter-2"] == {"seen": 6}  # ckpt.pt is of before the update of iteration 6
    assert run_hash("out") == run_hash("whole")


def test_an_error_in_it_is_its_own(run_dir: Path, tiny_argv: list[str]) -> None:
    class Broken:
        def on_batch_begin(self, batch_idx: int) -> None:
            raise LookupError("mine")

    with pytest.raises(LookupError, match="^mine$") as error:
        train.main(tiny_argv, [Broken()])
    assert error.traceback[-1].name == "on_batch_begin"


def test_an_object_without_a_load_state_dict_is_not_saved() -> None:
    class HalfStateful:
        def state_dict(self) -> dict[str, int]:
            return {}

        def on_batch_begin(self, batch_idx: int) -> None: ...

    meter: Any = None
    assert not hasattr(EventCallback(HalfStateful(), meter), "state_dict")
    assert hasattr(EventCallback(Counter(), meter), "state_dict")
