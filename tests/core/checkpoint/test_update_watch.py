"""How far an update of the weights came before an error ended it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from core.checkpoint.update_watch import COMPLETE, NOT_BEGUN, PARTIAL, UpdateWatch

Step = Callable[[], Any]
KERNELS: list[dict[str, Any]] = [{}, {"foreach": True}, {"fused": True}, {"amsgrad": True}]


class Momentum(torch.optim.Optimizer):
    """A user's optimizer that changes its own state first: in place, or by a number."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})
        self.stop_before_weights = False

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for p in parameters:
            state = self.state[p]
            state["mean"] = state.get("mean", torch.zeros_like(p)).mul_(0.9).add_(p.grad)
            state["calls"] = state.get("calls", 0) + 1
        if self.stop_before_weights:
            raise RuntimeError
        for p in parameters:
            p.data.add_(self.state[p]["mean"], alpha=-0.1)
            torch.autograd.graph.increment_version(p)


def parameters() -> list[torch.nn.Parameter]:
    found = [torch.nn.Parameter(torch.ones(size)) for size in (2, 3, 4)]
    for p in found:
        p.grad = torch.ones_like(p)
    return found


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_adamw(kernel: dict[str, Any]) -> None:
    first, second, third = parameters()
    groups = [{"params": [first, second]}, {"params": [third], "weight_decay": 0.0}]
    watch = UpdateWatch(optimizer := torch.optim.AdamW(groups, **kernel))

    watch.begin()
    assert watch.progress() == NOT_BEGUN
    watch.step()
    optimizer.step()
    assert watch.progress() == PARTIAL  # no earlier update to compare it with: it may be complete, or not

    for expected in (PARTIAL, COMPLETE):
        watch.begin()
        watch.step()
        optimizer.step()
        assert watch.progress() == expected

    watch.begin()
    watch.step()
    assert watch.progress() == NOT_BEGUN
    optimizer.param_groups[:], kept = optimizer.param_groups[:1], optimizer.param_groups[1]
    optimizer.step()  # of the first group alone
    optimizer.param_groups.append(kept)
    assert watch.progress() == PARTIAL


def test_a_state_that_changes_before_the_weights_makes_an_update_partial() -> None:
    watch = UpdateWatch(optimizer := Momentum(parameters()))
    for _ in range(3):
        watch.begin()
        watch.step()
        optimizer.step()
    assert watch.progress() == COMPLETE

    watch.begin()
    watch.step()
    optimizer.stop_before_weights = True
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert watch.progress() == PARTIAL


def test_a_state_that_is_no_number_makes_an_update_partial() -> None:
    watch = UpdateWatch(optimizer := Momentum(parameters()))
    for _ in range(3):
        for state in optimizer.state.values():
            state["note"] = "text"
        watch.begin()
        assert watch.progress() == NOT_BEGUN  # the optimizer is not called yet
        watch.step()
        optimizer.step()

    assert watch.progress() == PARTIAL


def test_an_optimizer_of_several_is_complete_with_the_last_of_them() -> None:
    class Both:
        optimizers = [torch.optim.AdamW(parameters()), torch.optim.SGD(parameters(), lr=0.1)]

    watch = UpdateWatch(Both())  # type: ignore[arg-type]
    for _ in range(3):
        watch.begin()
        watch.step()
        Both.optimizers[0].step()
        assert watch.progress() == PARTIAL
        Both.optimizers[1].step()
    assert watch.progress() == COMPLETE


class Uncounted(torch.optim.Optimizer):
    """A user's optimizer that changes weights in a way that torch does not count, and then counts its calls itself."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad, alpha=-0.1)
                self.state[p]["calls"] = self.state[p].get("calls", 0) + 1


@pytest.mark.parametrize(
    "make",
    [Uncounted, lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True)],
    ids=["own", "fused SGD"],
)
def test_changes_that_are_not_counted_make_an_update_partial(make: Callable[[Any], torch.optim.Optimizer]) -> None:
    watch = UpdateWatch(optimizer := make(parameters()))
    for _ in range(3):
        watch.begin()
        watch.step()
        optimizer.step()
        assert watch.progress() == PARTIAL

    watch.begin()
    watch.step()
    assert watch.progress() == PARTIAL  # it may have begun


def test_a_weight_without_a_gradient_need_not_change() -> None:
    used, unused = parameters()[:2]
    unused.grad = None
    watch = UpdateWatch(optimizer := torch.optim.SGD([used, unused], lr=0.1))
    for expected in (PARTIAL, COMPLETE, COMPLETE):
        watch.begin()
        watch.step()
        assert watch.progress() == (PARTIAL if expected == PARTIAL else NOT_BEGUN)
        optimizer.step()
        assert watch.progress() == expected
