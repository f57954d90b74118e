"""EpochMeter: where an iteration is in its epoch, the mean loss, and the state that callbacks of the C line see."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import core
import train
from extras.epoch_meter import EpochMeter, Place, TrainingState


def places(tokens_per_iter: int, train_tokens: int | None, count: int, max_iters: float = 6) -> list[Place]:
    trainer: Any = SimpleNamespace(max_iters=max_iters)
    meter = EpochMeter(tokens_per_iter, train_tokens)
    return [meter.place(trainer, iter_num) for iter_num in range(count)]


def test_an_epoch_is_a_pass_over_the_tokens_of_the_text() -> None:
    found = places(300, 1000, 11)

    assert [place.epoch for place in found] == [iter_num * 300 // 1000 for iter_num in range(11)]
    assert [place.batch_idx for place in found] == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 0]
    assert [place.total_batches for place in found] == [4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 4]


def test_an_update_may_be_longer_than_an_epoch() -> None:
    assert places(300, 100, 3) == [Place(0, 0, 1), Place(3, 0, 1), Place(6, 0, 1)]


def test_without_a_size_the_run_is_one_epoch() -> None:
    assert places(300, None, 3) == [Place(0, 0, 7), Place(0, 1, 7), Place(0, 2, 7)]
    assert places(300, None, 2, max_iters=float("inf")) == [Place(0, 0, 1), Place(0, 1, 2)]


def test_a_state_is_a_plain_dataclass_on_a_cpu() -> None:
    state = TrainingState(1, 5, 0, 4, torch.tensor(2.5), 0.1, {"val_loss": 3.0}, 1.25)
    values = dict(epoch=1, global_step=5, batch_idx=0, total_batches=4, loss=2.5, learning_rate=0.1)

    assert (
        dataclasses.asdict(state) == vars(state) == {**values, "metrics": {"val_loss": 3.0}, "fractional_epoch": 1.25}
    )


class OnDevice(torch.Tensor):
    """A tensor that seems to be on another device, and counts how often it is read."""

    device = torch.device("meta")  # type: ignore[assignment]
    reads = 0

    def __float__(self) -> float:
        self.reads += 1
        return 2.5


def test_a_loss_on_a_device_is_read_once_and_on_demand() -> None:
    loss = torch.zeros(()).as_subclass(OnDevice)  # type: ignore[no-untyped-call]
    state = TrainingState(0, 1, 0, 4, loss)
    assert loss.reads == 0

    assert (state.loss, state.loss, dataclasses.asdict(state)["loss"]) == (2.5, 2.5, 2.5)
    assert loss.reads == 1


def step(meter: EpochMeter, iter_num: int, loss: float) -> TrainingState:
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])
    trainer: Any = SimpleNamespace(iter_num=iter_num, max_iters=9, step=SimpleNamespace(optimizer=optimizer))
    meter.on_step_end(trainer, core.StepResult(torch.tensor(loss / 2), None, {}, 2, torch.tensor(loss)))
    return meter.state


def test_the_loss_is_the_mean_of_the_epoch() -> None:
    meter = EpochMeter(300, 900)
    losses = [float(step(meter, iter_num, loss).loss) for iter_num, loss in enumerate((4.0, 2.0, 3.0, 8.0, 6.0))]

    assert losses == [4.0, 3.0, 3.0, 8.0, 7.0]
    assert (meter.state.global_step, meter.state.learning_rate) == (5, 0.5)
    assert meter.state.fractional_epoch == pytest.approx(5 / 3)


def test_a_restored_meter_goes_on_in_mid_epoch() -> None:
    meter, other = EpochMeter(300, 900), EpochMeter(300, 900)
    step(meter, 0, 4.0)
    step(meter, 1, 2.5)
    meter.metrics = {"val_loss": 1.5}

    other.load_state_dict(meter.state_dict())

    assert step(other, 2, 3.1) == step(meter, 2, 3.1)
    assert other.state.metrics == {"val_loss": 1.5}


class Epochs:
    """A callback of the C line, with a state: the last states it was told."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def on_batch_end(self, state: TrainingState) -> None:
        self.states.append(dataclasses.asdict(state))


def test_a_resumed_run_tells_what_the_undisturbed_one_tells(run_dir: Path, tiny_argv: list[str]) -> None:
    argv = [*tiny_argv, "--batch_size=16"]  # 512 tokens of 2000 per update
    whole, halves = Epochs(), Epochs()
    train.main([*argv, "--out_dir=whole"], [whole])
    train.main([*argv, "--max_iters=2"], [halves])
    train.main([*argv, "--init_from=resume"], [halves])

    assert halves.states == whole.states
    assert [state["epoch"] for state in whole.states] == [0, 0, 0, 0, 1, 1, 1]
    assert whole.states[-1]["fractional_epoch"] == 7 * 512 / 2000
    assert set(whole.states[-1]["metrics"]) == {"val_loss", "train_loss"}
