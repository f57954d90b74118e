"""Schedules for fine-tuning, compared with independent formulas."""

import copy
import math
from typing import Any

import pytest
import torch

from extras.schedulers import AdaptiveScheduler, TransferLearningScheduler, WarmupOnlyScheduler

ITERATIONS = [-5, -1, 0, 1, 49, 50, 51, 99, 100, 101, 150, 199, 200, 201, 1200, 5000, 10**9]


@pytest.mark.parametrize("iter_num", ITERATIONS)
@pytest.mark.parametrize(("hold_iters", "expected_hold"), [(None, 50), (100, 100), (0, 0)])
def test_warmup_only_holds_then_decays(iter_num: int, hold_iters: int | None, expected_hold: int) -> None:
    late = iter_num - 50 - expected_hold
    if iter_num < 50:
        expected = 2e-3 * (max(iter_num, 0) + 1) / 51
    elif late < 0:
        expected = 2e-3
    else:
        expected = 2e-3 * (0.2 + 0.8 * (1 - late / (late + 100)))

    lr = WarmupOnlyScheduler(2e-3, 50, hold_iters, min_lr_ratio=0.2).get_lr(iter_num)
    assert lr == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("iter_num", ITERATIONS)
@pytest.mark.parametrize("decay_lr", [True, False])
def test_transfer_rates_of_the_transformer_and_the_head(iter_num: int, decay_lr: bool) -> None:
    if iter_num < 200:
        transformer, head = 0.0, 1e-3 * 4 * (min(max(iter_num, 0), 50) + 1) / 51
    else:
        peak, late = 1e-3 * 0.5, iter_num - 200
        factor = 0.5 + 0.5 * math.cos(math.pi * late / (late + 1000)) if decay_lr else 1
        transformer = 0.3 * peak + factor * (peak - 0.3 * peak)
        head = 2 * transformer

    scheduler = TransferLearningScheduler(1e-3, 4, 50, 200, 0.5, decay_lr, 0.3)
    assert scheduler.get_lr(iter_num) == pytest.approx(transformer, rel=1e-9)
    assert scheduler.get_head_lr(iter_num) == pytest.approx(head, rel=1e-9)


@pytest.mark.parametrize(
    ("iter_num", "transformer", "head"),
    [(0, 0, 5e-4 / 501), (500, 0, 5e-4), (1999, 0, 5e-4), (2000, 5e-6, 1e-5), (3000, 2.75e-6, 5.5e-6)],
)
def test_transfer_has_its_default_rates(iter_num: int, transformer: float, head: float) -> None:
    groups: list[dict[str, Any]] = [{}, {"is_head": True}, {"is_head": True, "lr_factor": 0.1}]

    assert TransferLearningScheduler().set_lr(groups, iter_num) == pytest.approx(transformer)
    assert [group["lr"] for group in groups] == pytest.approx([transformer, head, head / 10])


def test_transfer_without_a_warmup_starts_at_the_peak() -> None:
    assert TransferLearningScheduler(1e-3, 4, 0, 200).get_head_lr(0) == 4e-3


# adaptive


def test_adaptive_warms_up_then_is_constant() -> None:
    scheduler = AdaptiveScheduler(0.5, warmup_iters=4)

    assert [scheduler.get_lr(n) for n in (-5, 0, 3, 4, 10**9)] == pytest.approx([0.1, 0.1, 0.4, 0.5, 0.5])


def test_adaptive_is_reduced_after_patience_evaluations() -> None:
    scheduler = AdaptiveScheduler(1.0, patience=2, factor=0.5, min_lr=0.3, warmup_iters=0)
    lowered, rates = [], []
    for loss in (3.0, 3.0, 2.9, 2.9, math.nan, 5.0, 2.9, 2.8, 2.8, 2.8):
        lowered.append(scheduler.step(loss))
        rates.append(scheduler.get_lr(7))

    assert lowered == [False] * 4 + [True, False, True] + [False] * 3
    assert rates == [1.0] * 4 + [0.5, 0.5] + [0.3] * 4
    assert (scheduler.lowest_loss, scheduler.reductions) == (2.8, 3)


def test_adaptive_never_increases() -> None:
    scheduler = AdaptiveScheduler(1e-8, patience=1, warmup_iters=0)

    assert not any(scheduler.step(loss) for loss in (1.0, 1.0, 1.0))
    assert scheduler.get_lr(0) == 1e-8


class AtIteration:
    """The attributes of a trainer that the callback uses."""

    def __init__(self, iter_num: int) -> None:
        self.iter_num = iter_num


def evaluate(scheduler: AdaptiveScheduler, iter_num: int, loss: float) -> None:
    scheduler.on_eval_end(AtIteration(iter_num), {"val": torch.tensor(loss)})  # type: ignore[arg-type]


def test_a_reduced_rate_applies_from_the_next_iteration() -> None:
    """The current iteration has its rate already; a resume, which does not evaluate again, must compute the same."""
    scheduler = AdaptiveScheduler(1.0, patience=1, warmup_iters=0)
    evaluate(scheduler, 0, 3.0)
    before = scheduler.get_lr(10)
    evaluate(scheduler, 10, 3.0)

    assert before == scheduler.get_lr(10) == 1.0
    assert scheduler.get_lr(11) == 0.5


def test_an_evaluation_that_is_repeated_counts_once() -> None:
    scheduler = AdaptiveScheduler(1.0, patience=2)
    for iter_num in (0, 10, 10):
        evaluate(scheduler, iter_num, 3.0)

    assert (scheduler.stale_count, scheduler.reductions) == (1, 0)


@pytest.mark.parametrize("stop", range(6))
def test_adaptive_resumed_anywhere_equals_an_uninterrupted_run(stop: int) -> None:
    losses = [3.0, 3.1, 2.0, 2.0, 2.5, 2.5]

    def rates(scheduler: AdaptiveScheduler, first: int, last: int) -> list[float]:
        lrs = []
        for iter_num in range(first, last):
            lrs.append(scheduler.get_lr(iter_num))
            evaluate(scheduler, iter_num, losses[iter_num])
        return lrs

    uninterrupted = rates(AdaptiveScheduler(1.0, patience=1, warmup_iters=0), 0, 6)
    scheduler = AdaptiveScheduler(1.0, patience=1, warmup_iters=0)
    begun = rates(scheduler, 0, stop)
    evaluate(scheduler, stop, losses[stop])  # the resumed run begins in this iteration and skips the evaluation
    resumed = AdaptiveScheduler(9.0, patience=1, warmup_iters=0)
    resumed.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    current = [resumed.get_lr(stop)]

    assert uninterrupted == [1.0, 1.0, 0.5, 0.5, 0.25, 0.125]
    assert begun + current + rates(resumed, stop + 1, 6) == uninterrupted
