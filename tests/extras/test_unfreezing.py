"""Unfreezing during a run: bitwise equal results after stops, resumes and rollbacks, on one rank and on two."""

import copy
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmark.soak.campaign import ranks
from core.machine.parallel import Replicated
from core.objective import LanguageModeling
from core.optimizer import load_optimizer_state
from core.scheduler import CosineLRScheduler
from core.training_step import TrainingStep
from extras.freezing import freeze_transformer, is_frozen, train_only
from extras.unfreezing import Unfreezing, replay
from model import GPT, GPTConfig

State = dict[str, Any]
CPU = torch.device("cpu")
UNFREEZE_AT, END = 3, 7  # iteration of the unfreezing, number of updates of the run
CLASSIFIER = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=17, mode="token_classifier")


class Batches:
    """A data source whose random batches depend only on its position."""

    def __init__(self, drawn: int, rank: int, world_size: int) -> None:
        self.drawn = drawn * world_size + rank
        self.world_size = world_size

    def get_batch(self, split: str) -> Any:
        draw = torch.Generator().manual_seed(self.drawn)
        self.drawn += self.world_size
        return torch.randint(17, (4, 8), generator=draw), torch.randint(2, (4, 8), generator=draw)


class Run:
    """A run with train.py's parts and the attributes of a trainer that the callback uses.

    patterns:    patterns of the transformer's parameters that train from the start
    micro_steps: micro-steps of an update on this rank
    """

    def __init__(
        self, saved: State | None = None, *, patterns: str = "", micro_steps: int = 1, compiled: bool = False
    ) -> None:
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        torch.manual_seed(1)
        self.model = GPT(CLASSIFIER)
        train_only(self.model, patterns)
        if saved:
            self.model.load_state_dict(saved["model"])
        optimizer = self.model.configure_optimizers(0.1, 1e-2, (0.8, 0.9), "cpu")
        if saved:
            replay(self.model, optimizer, saved["optimizer"], 0.1)
            load_optimizer_state(optimizer, copy.deepcopy(saved["optimizer"]))
        self.world_size, self.micro_steps, self.rank = world_size, micro_steps, rank
        parallel = Replicated(world_size > 1, CPU)
        called: nn.Module = torch.compile(self.model, backend="aot_eager") if compiled else self.model  # type: ignore[assignment]
        wrapped = parallel.wrap(called)
        self.step = TrainingStep(
            wrapped, LanguageModeling(), optimizer, self.draw, parallel, gradient_accumulation_steps=micro_steps
        )
        self.trainer: Any = SimpleNamespace(
            iter_num=0, step=self.step, raw_model=self.model, scheduler=CosineLRScheduler(1e-2, 2, 8, 1e-3),
            monitor=SimpleNamespace(lr_scale=1.0), logger=self,
        )  # fmt: skip
        self.events: list[State] = []
        self.lrs: list[list[float]] = []
        self.callback = Unfreezing(UNFREEZE_AT, 0.5, weight_decay=0.1)
        self.restore_position(saved["iter_num"] if saved else 0)
        self.callback.on_train_begin(self.trainer)

    def draw(self, split: str) -> Any:
        return self.batches.get_batch(split)

    def log_event(self, record: State) -> None:
        self.events.append(record)

    def restore_position(self, iter_num: int) -> None:
        self.trainer.iter_num = iter_num
        self.batches, self.step.batch = Batches(iter_num * self.micro_steps, self.rank, self.world_size), None

    def begin_iteration(self) -> None:
        self.trainer.scheduler.set_lr(self.step.optimizer.param_groups, self.trainer.iter_num)
        self.callback.on_step_begin(self.trainer)

    def train(self, until: int) -> "Run":
        while self.trainer.iter_num < until:
            self.begin_iteration()
            self.lrs.append([group["lr"] for group in self.step.optimizer.param_groups])
            self.step.execute_step()
            self.trainer.iter_num += 1
        return self

    def state(self) -> State:
        state = {"model": self.model.state_dict(), "optimizer": self.step.optimizer.state_dict()}
        return copy.deepcopy({**state, "iter_num": self.trainer.iter_num})

    def roll_back(self, saved: State) -> None:
        """Restore model, optimizer and position, as a recovery does."""
        self.model.load_state_dict(saved["model"])
        load_optimizer_state(self.step.optimizer, copy.deepcopy(saved["optimizer"]))
        self.restore_position(saved["iter_num"])


def equal_bits(one: Any, other: Any) -> bool:
    """Return True if two states are equal bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal_bits(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal_bits, one, other))
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


@pytest.fixture(scope="module")
def undisturbed() -> State:
    return Run().train(END).state()


def test_the_transformer_starts_to_train_in_the_given_iteration(caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    start = run.state()["model"]
    before = run.train(UNFREEZE_AT).state()
    with caplog.at_level(logging.INFO, logger="coregpt"):
        after = run.train(UNFREEZE_AT + 1).state()

    body = [name for name in start if name.startswith("transformer.") and "wpe" not in name]
    assert all(torch.equal(before["model"][name], start[name]) for name in body)
    assert not any(torch.equal(after["model"][name], start[name]) for name in body)
    assert not torch.equal(before["model"]["lm_head.weight"], start["lm_head.weight"])
    assert caplog.messages == ["iteration 3: 28 more tensors train; learning rate 0.00469856, was 0.00939711"]


def test_the_factor_scales_the_learning_rate_after_the_unfreezing() -> None:
    run = Run().train(END)

    rates = [CosineLRScheduler(1e-2, 2, 8, 1e-3).get_lr(iter_num) for iter_num in range(END)]
    assert run.lrs[:UNFREEZE_AT] == [[lr] * 2 for lr in rates[:UNFREEZE_AT]]
    assert run.lrs[UNFREEZE_AT:] == [[lr * 0.5] * 4 for lr in rates[UNFREEZE_AT:]]
    record = {
        "iter": UNFREEZE_AT,
        "old_lr": rates[UNFREEZE_AT],
        "new_lr": rates[UNFREEZE_AT] * 0.5,
        "lr_multiplier": 0.5,
    }
    assert run.events == [{"event": "unfreezing", **record}]


def test_an_earlier_lr_factor_of_a_group_is_multiplied() -> None:
    run = Run().train(UNFREEZE_AT)
    run.step.optimizer.param_groups[0]["lr_factor"] = 0.25
    run.begin_iteration()

    assert [group["lr_factor"] for group in run.step.optimizer.param_groups] == [0.125, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("stop", range(END))
def test_a_resumed_run_equals_an_undisturbed_one_around_the_unfreezing(stop: int, undisturbed: State) -> None:
    first = Run().train(stop)
    second = Run(first.state())

    assert equal_bits(second.train(END).state(), undisturbed)
    assert len(first.events) + len(second.events) == 1


def test_a_run_stopped_in_the_update_of_the_unfreezing_unfreezes_once(undisturbed: State) -> None:
    """A signal abandons the update but not the unfreezing before it; the saved iter_num is that of the unfreezing."""
    first = Run().train(UNFREEZE_AT)
    first.begin_iteration()
    second = Run(first.state())

    assert first.state()["iter_num"] == UNFREEZE_AT and not is_frozen(second.model)
    assert equal_bits(second.train(END).state(), undisturbed)
    assert second.events == []


@pytest.mark.parametrize("iter_num", [0, 2, UNFREEZE_AT, UNFREEZE_AT + 1, 5])
def test_a_run_can_roll_back_to_before_or_after_the_unfreezing(iter_num: int, undisturbed: State) -> None:
    saved = Run().train(iter_num).state()
    run = Run().train(6)
    run.roll_back(saved)

    assert is_frozen(run.model) == (iter_num <= UNFREEZE_AT)
    run.train(iter_num + 1)
    assert is_frozen(run.model) == (iter_num < UNFREEZE_AT)
    frozen = [p for name, p in run.model.named_parameters() if name.startswith("transformer.")] * (
        iter_num < UNFREEZE_AT
    )
    assert all(parameter.grad is None and parameter not in run.step.optimizer.state for parameter in frozen)
    assert equal_bits(run.train(END).state(), undisturbed)
    assert len(run.events) == 1 + (iter_num <= UNFREEZE_AT)


def test_a_part_that_trained_from_the_beginning_keeps_its_state() -> None:
    part = "ln_f,h.1.mlp"
    before = Run(patterns=part).train(UNFREEZE_AT)
    moments = before.state()["optimizer"]["state"]
    before.begin_iteration()

    after = before.state()["optimizer"]
    assert len(moments) == 7 and equal_bits(after["state"], moments)
    assert [len(group["params"]) for group in after["param_groups"]] == [3, 4, 8, 14]
    for stop in (UNFREEZE_AT - 1, UNFREEZE_AT, UNFREEZE_AT + 1):
        resumed = Run(Run(patterns=part).train(stop).state(), patterns=part)
        assert equal_bits(resumed.train(END).state(), Run(patterns=part).train(END).state())


def test_a_model_without_frozen_parameters_does_not_change() -> None:
    run = Run(patterns="*").train(END)

    assert run.events == [] and len(run.step.optimizer.param_groups) == 2
    assert not any("lr_factor" in group for group in run.step.optimizer.param_groups)


@pytest.mark.parametrize("saved", [None, {}, {"param_groups": None}, {"param_groups": [None, {"params": []}]}, [1]])
def test_an_invalid_optimizer_state_unfreezes_nothing(saved: Any) -> None:
    """load_optimizer_state reports the error."""
    model = GPT(CLASSIFIER)
    freeze_transformer(model)
    optimizer = model.configure_optimizers(0.1, 1e-2, (0.8, 0.9), "cpu")
    replay(model, optimizer, saved, 0.1)

    assert is_frozen(model) and len(optimizer.param_groups) == 2


# several processes


@pytest.fixture
def as_ranks(tmp_path: Path) -> Iterator[Any]:
    """Return a function that runs `work` in two processes of one gloo group and returns the result of rank 0."""

    def launch(work: Any) -> Any:
        def rank() -> None:
            torch._dynamo.reset()
            dist.init_process_group("gloo")
            state = work()
            others: list[Any] = [None, None]
            dist.all_gather_object(others, state)
            assert equal_bits(others[0], others[1])  # both ranks hold the same weights and moments
            if os.environ["RANK"] == "0":
                torch.save(state, tmp_path / "state.pt")
            dist.destroy_process_group()

        assert ranks(rank, folder=tmp_path) == [0, 0]
        return torch.load(tmp_path / "state.pt", weights_only=True)

    yield launch


def test_two_ranks_end_like_one_process_with_twice_the_micro_batches(as_ranks: Any) -> None:
    def work() -> State:
        run = Run()
        wrapper = run.step.model
        assert isinstance(wrapper, DistributedDataParallel)
        state = run.train(END).state()
        new_wrapper: Any = run.step.model
        assert new_wrapper is not wrapper and new_wrapper.module is run.model
        with run.step.grad_sync(False):
            assert not new_wrapper.require_backward_grad_sync  # micro-steps before the last one do not synchronise
        return state

    one, two = Run(micro_steps=2).train(END).state(), as_ranks(work)
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-5, atol=1e-7)


def test_two_ranks_resume_and_recover_across_the_unfreezing(as_ranks: Any) -> None:
    def work() -> State:
        undisturbed = Run().train(END).state()
        saved = Run().train(UNFREEZE_AT - 1).state()
        assert equal_bits(Run(saved).train(END).state(), undisturbed)
        assert equal_bits(Run(Run().train(UNFREEZE_AT + 1).state()).train(END).state(), undisturbed)
        run = Run().train(UNFREEZE_AT + 2)
        run.roll_back(saved)
        assert equal_bits(run.train(END).state(), undisturbed)
        return undisturbed

    as_ranks(work)


def test_a_compiled_model_is_unfrozen_on_two_ranks_as_well(as_ranks: Any) -> None:
    one, two = Run(micro_steps=2).train(END).state(), as_ranks(lambda: Run(compiled=True).train(END).state())

    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-4, atol=1e-5)
