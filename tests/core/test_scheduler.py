"""Learning rates, compared with the formulas written a second time."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.scheduler import (
    ConstantLRScheduler,
    CosineLRScheduler,
    InverseSqrtLRScheduler,
    LinearLRScheduler,
    LRScheduler,
    StepLRScheduler,
    WSDLRScheduler,
)

PEAK, FLOOR = 6e-4, 6e-5


def cosine(iter_num: int, warmup_iters: int, lr_decay_iters: int) -> float:
    """Return nanoGPT's learning rate, where nanoGPT does not divide by zero."""
    if iter_num < warmup_iters:
        return PEAK * (iter_num + 1) / (warmup_iters + 1)
    if iter_num > lr_decay_iters:
        return FLOOR
    angle = math.pi * ((iter_num - warmup_iters) / (lr_decay_iters - warmup_iters))
    return FLOOR + 0.5 * (1.0 + math.cos(angle)) * (PEAK - FLOOR)


@pytest.mark.parametrize("iter_num", [0, 1, 98, 99, 100, 101, 350, 599, 600, 601, 6000])
def test_cosine_is_nanogpts_to_the_bit(iter_num: int) -> None:
    assert CosineLRScheduler(PEAK, 100, 600, FLOOR).get_lr(iter_num) == cosine(iter_num, 100, 600)


@given(iter_num=st.integers(0, 10_000), warmup_iters=st.integers(0, 3000), lr_decay_iters=st.integers(0, 3000))
def test_cosine_is_nanogpts_for_any_shape(iter_num: int, warmup_iters: int, lr_decay_iters: int) -> None:
    lr = CosineLRScheduler(PEAK, warmup_iters, lr_decay_iters, FLOOR).get_lr(iter_num)

    assert 0 < lr <= PEAK
    if iter_num != warmup_iters or iter_num != lr_decay_iters:  # at that iteration nanoGPT divides by zero
        assert lr == cosine(iter_num, warmup_iters, lr_decay_iters)


@pytest.mark.parametrize(
    ("iter_num", "expected"),
    [
        (-5, PEAK / 5),
        (-1, PEAK / 5),
        (0, PEAK / 5),
        (3, PEAK * 4 / 5),
        (4, PEAK),
        (10, FLOOR),
        (11, FLOOR),
        (100, FLOOR),
    ],
)
def test_edges_of_the_schedule(iter_num: int, expected: float) -> None:
    """Before its start a schedule returns its first value, after its end its last."""
    assert CosineLRScheduler(PEAK, 4, 10, FLOOR).get_lr(iter_num) == expected


def test_warmup_starts_above_zero_and_no_warmup_starts_at_the_peak() -> None:
    assert CosineLRScheduler(PEAK, 100, 600, FLOOR).get_lr(0) == PEAK / 101
    assert CosineLRScheduler(PEAK, 0, 600, FLOOR).get_lr(0) == PEAK


@pytest.mark.parametrize(("iter_num", "expected"), [(9, PEAK * 10 / 11), (10, PEAK), (11, FLOOR), (10**9, FLOOR)])
@pytest.mark.parametrize("shape", [CosineLRScheduler, LinearLRScheduler, WSDLRScheduler])
def test_a_warmup_that_ends_with_the_decay_ends_at_the_peak(shape: Any, iter_num: int, expected: float) -> None:
    more = (1,) if shape is WSDLRScheduler else ()

    assert shape(PEAK, 10, 10, FLOOR, *more).get_lr(iter_num) == expected


@pytest.mark.parametrize(("iter_num", "expected"), [(5, 6 / 11), (6, 7 / 11), (9, 10 / 11), (10, 0.1), (11, 0.1)])
@pytest.mark.parametrize("shape", [CosineLRScheduler, LinearLRScheduler])
def test_a_warmup_beyond_the_decay_drops_at_its_end_as_in_nanogpt(shape: Any, iter_num: int, expected: float) -> None:
    assert shape(1.0, 10, 5, 0.1).get_lr(iter_num) == expected


@pytest.mark.parametrize("iter_num", [-1, 0, 99, 100, 601])
def test_without_decay_there_is_no_warmup_either(iter_num: int) -> None:
    assert CosineLRScheduler(PEAK, 100, 600, FLOOR, decay_lr=False).get_lr(iter_num) == PEAK


def test_get_lr_does_not_depend_on_the_order_of_calls() -> None:
    scheduler = CosineLRScheduler(PEAK, 100, 600, FLOOR)

    forwards = [scheduler.get_lr(iter_num) for iter_num in range(700)]
    assert [scheduler.get_lr(iter_num) for iter_num in reversed(range(700))] == forwards[::-1]


def test_a_schedule_must_define_get_lr() -> None:
    with pytest.raises(TypeError, match="get_lr"):
        LRScheduler()  # type: ignore[abstract]


# further schedules


def ramp(iter_num: int, warmup_iters: int) -> float:
    """Return the fraction of the peak in a warm-up."""
    return (max(iter_num, 0) + 1) / (warmup_iters + 1)


def line(iter_num: int, begin: int, end: int) -> float:
    """Return the linear interpolation between the peak at `begin` and the floor at `end`."""
    if iter_num > end or iter_num == end > begin:
        return FLOOR
    return PEAK if iter_num <= begin else PEAK - (PEAK - FLOOR) * (iter_num - begin) / (end - begin)


ITERATIONS = [-5, -1, 0, 1, 5, 9, 10, 11, 30, 79, 80, 81, 90, 99, 100, 101, 10**9]
shapes = dict(iter_num=st.integers(-9, 400), warmup_iters=st.integers(0, 150), lr_decay_iters=st.integers(0, 300))


@pytest.mark.parametrize("iter_num", ITERATIONS)
def test_constant_after_the_warmup(iter_num: int) -> None:
    expected = PEAK * ramp(iter_num, 10) if iter_num < 10 else PEAK
    assert ConstantLRScheduler(PEAK, 10).get_lr(iter_num) == pytest.approx(expected, rel=1e-12)


@given(**shapes)
def test_linear_is_a_straight_line_from_warmup_to_end(iter_num: int, warmup_iters: int, lr_decay_iters: int) -> None:
    lr = LinearLRScheduler(PEAK, warmup_iters, lr_decay_iters, FLOOR).get_lr(iter_num)

    in_warmup = iter_num < warmup_iters
    expected = PEAK * ramp(iter_num, warmup_iters) if in_warmup else line(iter_num, warmup_iters, lr_decay_iters)
    assert lr == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("iter_num", "expected"), [(-5, 1 / 11), (10, 1), (55, 0.55), (100, 0.1), (10**9, 0.1)])
def test_linear_in_numbers(iter_num: int, expected: float) -> None:
    assert LinearLRScheduler(1.0, 10, 100, 0.1).get_lr(iter_num) == pytest.approx(expected, rel=1e-12)


@given(**shapes, decay_iters=st.integers(0, 200))
def test_wsd_is_stable_until_its_last_iterations(
    iter_num: int, warmup_iters: int, lr_decay_iters: int, decay_iters: int
) -> None:
    lr = WSDLRScheduler(PEAK, warmup_iters, lr_decay_iters, FLOOR, decay_iters).get_lr(iter_num)

    begin = max(lr_decay_iters - decay_iters, warmup_iters)
    in_warmup = iter_num < warmup_iters
    expected = PEAK * ramp(iter_num, warmup_iters) if in_warmup else line(iter_num, begin, lr_decay_iters)
    assert lr == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("iter_num", "expected"), [(-5, 1 / 11), (0, 1 / 11), (10, 1), (80, 1), (90, 0.55), (100, 0.1), (101, 0.1)]
)
def test_wsd_in_numbers(iter_num: int, expected: float) -> None:
    assert WSDLRScheduler(1.0, 10, 100, 0.1, 20).get_lr(iter_num) == pytest.approx(expected, rel=1e-12)


@given(iter_num=st.integers(-9, 10**7), warmup_iters=st.integers(0, 3000))
def test_inverse_sqrt_decays_with_the_square_root(iter_num: int, warmup_iters: int) -> None:
    lr = InverseSqrtLRScheduler(PEAK, warmup_iters).get_lr(iter_num)

    decayed = PEAK * ((warmup_iters + 1) ** 0.5 / (max(iter_num, 0) + 1) ** 0.5)
    assert lr == pytest.approx(PEAK * ramp(iter_num, warmup_iters) if iter_num < warmup_iters else decayed, rel=1e-9)


@pytest.mark.parametrize(("iter_num", "expected"), [(-5, 0.1), (8, 0.9), (9, 1), (39, 0.5), (159, 0.25), (999, 0.25)])
def test_inverse_sqrt_in_numbers(iter_num: int, expected: float) -> None:
    assert InverseSqrtLRScheduler(1.0, 9, min_lr=0.25).get_lr(iter_num) == pytest.approx(expected, rel=1e-12)


# parameter groups


class Halving(LRScheduler):
    def get_lr(self, iter_num: int) -> float:
        return 0.1 / 2**iter_num


def test_every_group_gets_the_exact_rate_times_its_own_factor() -> None:
    groups = [{"lr": 9.0}, {"lr": 9.0, "lr_factor": 0.3}, {"lr": 9.0, "lr_factor": 10.0}]

    assert Halving().set_lr(groups, 3) == 0.0125
    assert [group["lr"] for group in groups] == [0.0125, 0.0125 * 0.3, 0.0125 * 10.0]
    assert Halving().set_lr(groups, 3, scale=0.7) == 0.0125 * 0.7
    assert [group["lr"] for group in groups] == [0.0125 * 0.7, 0.0125 * 0.7 * 0.3, 0.0125 * 0.7 * 10.0]


def test_a_schedule_may_use_another_rate_for_some_groups() -> None:
    class ByGroup(Halving):
        def get_group_lr(self, iter_num: int, group: dict[str, object]) -> float:
            return 5.0 if group.get("slow") else self.get_lr(iter_num)

    groups = [{"lr_factor": 2.0}, {"slow": True, "lr_factor": 2.0}]

    assert ByGroup().set_lr(groups, 0, scale=0.5) == 0.1
    assert groups[1]["lr"] == 5.0


def test_a_step_schedule_falls_after_each_epoch() -> None:
    schedule = StepLRScheduler(1.0, warmup_iters=2, updates_per_epoch=2.5, gamma=0.5)

    assert [schedule.get_lr(i) for i in range(9)] == [1 / 3, 2 / 3, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    assert StepLRScheduler(1.0, 0, 3, 0.1).get_lr(3) == 0.1
