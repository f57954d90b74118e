"""Training the rest of a frozen model: to the bit the same however often the run is stopped, and on several ranks."""

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
from core.objective import LanguageModeling
from core.optimizer import load_optimizer_state
from core.parallel import Replicated
from core.scheduler import CosineLRScheduler
from core.training_step import TrainingStep
from extras.freezing import freeze_transformer, is_frozen, trainable
from extras.unfreezing import Unfreezing, replay
from model import GPT, GPTConfig

State = dict[str, Any]
CPU = torch.device("cpu")
AT, END = 3, 7  # of the unfreezing; of the run
CLASSIFIER = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=17, mode="token_classifier")


class Batches:
    """Random batches in an order that depends on nothing else, as a data source that is restored would give them."""

    def __init__(self, drawn: int, rank: int, world_size: int) -> None:
        self.drawn = drawn * world_size + rank
        self.world_size = world_size

    def get_batch(self, split: str) -> Any:
        draw = torch.Generator().manual_seed(self.drawn)
        self.drawn += self.world_size
        return torch.randint(17, (4, 8), generator=draw), torch.randint(2, (4, 8), generator=draw)


class Run:
    """A run as train.py wires it, with as much of a trainer as the callback reads.

    patterns: what of the transformer trains from the beginning
    share:    of the gradient's micro-batches, how many this process makes
    """

    def __init__(
        self, saved: State | None = None, *, patterns: str = "", share: int = 1, compiled: bool = False
    ) -> None:
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        torch.manual_seed(1)
        self.model = GPT(CLASSIFIER)
        trainable(self.model, patterns)
        if saved:
            self.model.load_state_dict(saved["model"])
        optimizer = self.model.configure_optimizers(0.1, 1e-2, (0.8, 0.9), "cpu")
        if saved:
            replay(self.model, optimizer, saved["optimizer"], 0.1)
            load_optimizer_state(optimizer, copy.deepcopy(saved["optimizer"]))
        self.world_size, self.share, self.rank = world_size, share, rank
        parallel = Replicated(world_size > 1, CPU)
        called: nn.Module = torch.compile(self.model, backend="aot_eager") if compiled else self.model  # type: ignore[assignment]
        wrapped = parallel.wrap(called)
        self.step = TrainingStep(
            wrapped, LanguageModeling(), optimizer, self.draw, parallel, gradient_accumulation_steps=share
        )
        self.trainer: Any = SimpleNamespace(
            iter_num=0, step=self.step, raw_model=self.model, scheduler=CosineLRScheduler(1e-2, 2, 8, 1e-3),
            monitor=SimpleNamespace(lr_scale=1.0), logger=self,
        )  # fmt: skip
        self.events: list[State] = []
        self.lrs: list[list[float]] = []
        self.callback = Unfreezing(AT, 0.5, weight_decay=0.1)
        self.go_to(saved["iter_num"] if saved else 0)
        self.callback.on_train_begin(self.trainer)

    def draw(self, split: str) -> Any:
        return self.batches.get_batch(split)

    def log_event(self, record: State) -> None:
        self.events.append(record)

    def go_to(self, iter_num: int) -> None:
        self.trainer.iter_num = iter_num
        self.batches, self.step.batch = Batches(iter_num * self.share, self.rank, self.world_size), None

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

    def go_back(self, saved: State) -> None:
        """Do what a recovery does."""
        self.model.load_state_dict(saved["model"])
        load_optimizer_state(self.step.optimizer, copy.deepcopy(saved["optimizer"]))
        self.go_to(saved["iter_num"])


def same(one: Any, other: Any) -> bool:
    """Tell whether two states are equal to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


@pytest.fixture(scope="module")
def undisturbed() -> State:
    return Run().train(END).state()


def test_the_transformer_begins_to_train_in_that_iteration(caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    start = run.state()["model"]
    before = run.train(AT).state()
    with caplog.at_level(logging.INFO, logger="coregpt"):
        after = run.train(AT + 1).state()

    body = [name for name in start if name.startswith("transformer.") and "wpe" not in name]
    assert all(torch.equal(before["model"][name], start[name]) for name in body)
    assert not any(torch.equal(after["model"][name], start[name]) for name in body)
    assert not torch.equal(before["model"]["lm_head.weight"], start["lm_head.weight"])
    assert caplog.messages == ["iteration 3: 28 more tensors train; learning rate 0.00469856, was 0.00939711"]


def test_the_factor_scales_the_schedule_from_then_on() -> None:
    run = Run().train(END)

    rates = [CosineLRScheduler(1e-2, 2, 8, 1e-3).get_lr(iter_num) for iter_num in range(END)]
    assert run.lrs[:AT] == [[lr] * 2 for lr in rates[:AT]]
    assert run.lrs[AT:] == [[lr * 0.5] * 4 for lr in rates[AT:]]
    record = {"iter": AT, "old_lr": rates[AT], "new_lr": rates[AT] * 0.5, "lr_multiplier": 0.5}
    assert run.events == [{"event": "unfreezing", **record}]


@pytest.mark.parametrize("stop", range(END))
def test_resumed_on_either_side_is_never_stopped(stop: int, undisturbed: State) -> None:
    first = Run().train(stop)
    second = Run(first.state())

    assert same(second.train(END).state(), undisturbed)
    assert len(first.events) + len(second.events) == 1


def test_stopped_in_the_very_update_it_is_not_unfrozen_twice(undisturbed: State) -> None:
    """A signal abandons the update, not the unfreezing before it: what is saved has the same iteration either way."""
    first = Run().train(AT)
    first.begin_iteration()
    second = Run(first.state())

    assert first.state()["iter_num"] == AT and not is_frozen(second.model)
    assert same(second.train(END).state(), undisturbed)
    assert second.events == []


@pytest.mark.parametrize("iter_num", [0, 2, AT, AT + 1, 5])
def test_a_recovery_goes_back_to_either_side(iter_num: int, undisturbed: State) -> None:
    saved = Run().train(iter_num).state()
    run = Run().train(6)
    run.go_back(saved)

    assert is_frozen(run.model) == (iter_num <= AT)
    run.train(iter_num + 1)
    assert is_frozen(run.model) == (iter_num < AT)
    frozen = [p for name, p in run.model.named_parameters() if name.startswith("transformer.")] * (iter_num < AT)
    assert all(parameter.grad is None and parameter not in run.step.optimizer.state for parameter in frozen)
    assert same(run.train(END).state(), undisturbed)
    assert len(run.events) == 1 + (iter_num <= AT)


def test_a_part_that_trained_from_the_beginning_keeps_its_state() -> None:
    part = "ln_f,h.1.mlp"
    before = Run(patterns=part).train(AT)
    moments = before.state()["optimizer"]["state"]
    before.begin_iteration()

    after = before.state()["optimizer"]
    assert len(moments) == 7 and same(after["state"], moments)
    assert [len(group["params"]) for group in after["param_groups"]] == [3, 4, 8, 14]
    for stop in (AT - 1, AT, AT + 1):
        resumed = Run(Run(patterns=part).train(stop).state(), patterns=part)
        assert same(resumed.train(END).state(), Run(patterns=part).train(END).state())


def test_one_that_is_not_frozen_is_left_as_it_is() -> None:
    run = Run(patterns="*").train(END)

    assert run.events == [] and len(run.step.optimizer.param_groups) == 2
    assert not any("lr_factor" in group for group in run.step.optimizer.param_groups)


@pytest.mark.parametrize("saved", [None, {}, {"param_groups": None}, {"param_groups": [None, {"params": []}]}, [1]])
def test_a_state_that_tells_nothing_unfreezes_nothing(saved: Any) -> None:
    """What is wrong with it is for load_optimizer_state to say."""
    model = GPT(CLASSIFIER)
    freeze_transformer(model)
    optimizer = model.configure_optimizers(0.1, 1e-2, (0.8, 0.9), "cpu")
    replay(model, optimizer, saved, 0.1)

    assert is_frozen(model) and len(optimizer.param_groups) == 2


# several processes


@pytest.fixture
def as_ranks(tmp_path: Path) -> Iterator[Any]:
    """Run something in two processes of one gloo group, and return what rank 0 leaves in a file."""

    def launch(work: Any) -> Any:
        def rank() -> None:
            torch._dynamo.reset()
            dist.init_process_group("gloo")
            found = work()
            others: list[Any] = [None, None]
            dist.all_gather_object(others, found)
            assert same(others[0], others[1])  # both ranks hold the same weights and moments
            if os.environ["RANK"] == "0":
                torch.save(found, tmp_path / "found.pt")
            dist.destroy_process_group()

        assert ranks(rank, folder=tmp_path) == [0, 0]
        return torch.load(tmp_path / "found.pt", weights_only=True)

    yield launch


def test_two_ranks_end_like_one_process_with_twice_the_micro_batches(as_ranks: Any) -> None:
    def work() -> State:
        run = Run()
        wrapper = run.step.model
        assert isinstance(wrapper, DistributedDataParallel)
        state = run.train(END).state()
        anew: Any = run.step.model
        assert anew is not wrapper and anew.module is run.model
        with run.step.grad_sync(False):
            assert not anew.require_backward_grad_sync  # the micro-batches before the last stay cheap
        return state

    one, two = Run(share=2).train(END).state(), as_ranks(work)
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-5, atol=1e-7)


def test_two_ranks_resume_and_recover_across_the_unfreezing(as_ranks: Any) -> None:
    def work() -> State:
        undisturbed = Run().train(END).state()
        saved = Run().train(AT - 1).state()
        assert same(Run(saved).train(END).state(), undisturbed)
        assert same(Run(Run().train(AT + 1).state()).train(END).state(), undisturbed)
        run = Run().train(AT + 2)
        run.go_back(saved)
        assert same(run.train(END).state(), undisturbed)
        return undisturbed

    as_ranks(work)


def test_a_compiled_model_notices_on_two_ranks_as_well(as_ranks: Any) -> None:
    one, two = Run(share=2).train(END).state(), as_ranks(lambda: Run(compiled=True).train(END).state())

    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-4, atol=1e-5)
