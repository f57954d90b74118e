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
    optimizer.step()
    assert watch.progress() == PARTIAL  # no earlier update to compare it with: it may be complete, or not

    for expected in (PARTIAL, COMPLETE):
        watch.begin()
        optimizer.step()
        assert watch.progress() == expected

    watch.begin()
    assert watch.progress() == NOT_BEGUN
    optimizer.param_groups[:], kept = optimizer.param_groups[:1], optimizer.param_groups[1]
    optimizer.step()  # of the first group alone
    optimizer.param_groups.append(kept)
    assert watch.progress() == PARTIAL


def test_a_state_that_changes_before_the_weights_makes_an_update_partial() -> None:
    watch = UpdateWatch(optimizer := Momentum(parameters()))
    for _ in range(3):
        watch.begin()
        optimizer.step()
    assert watch.progress() == COMPLETE

    watch.begin()
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
        optimizer.step()

    assert watch.progress() == PARTIAL


def test_an_optimizer_of_several_is_complete_with_the_last_of_them() -> None:
    class Both:
        optimizers = [torch.optim.AdamW(parameters()), torch.optim.SGD(parameters(), lr=0.1)]

    watch = UpdateWatch(Both())  # type: ignore[arg-type]
    for _ in range(3):
        watch.begin()
        Both.optimizers[0].step()
        assert watch.progress() == PARTIAL
        Both.optimizers[1].step()
    assert watch.progress() == COMPLETE
