"""Learning rates, against the formula written once more."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.scheduler import CosineLRScheduler, LRScheduler

PEAK, FLOOR = 6e-4, 6e-5


def cosine(iter_num: int, warmup_iters: int, lr_decay_iters: int) -> float:
    """Return nanoGPT's learning rate, for iterations at which nanoGPT has one."""
    if iter_num < warmup_iters:
        return PEAK * (iter_num + 1) / (warmup_iters + 1)
    if iter_num > lr_decay_iters:
        return FLOOR
    turned = math.pi * ((iter_num - warmup_iters) / (lr_decay_iters - warmup_iters))
    return FLOOR + 0.5 * (1.0 + math.cos(turned)) * (PEAK - FLOOR)


@pytest.mark.parametrize("iter_num", [0, 1, 98, 99, 100, 101, 350, 599, 600, 601, 6000])
def test_cosine_is_nanogpts_to_the_bit(iter_num: int) -> None:
    assert CosineLRScheduler(PEAK, 100, 600, FLOOR).get_lr(iter_num) == cosine(iter_num, 100, 600)


@given(iter_num=st.integers(0, 10_000), warmup_iters=st.integers(0, 3000), lr_decay_iters=st.integers(0, 3000))
def test_cosine_is_nanogpts_for_any_shape(iter_num: int, warmup_iters: int, lr_decay_iters: int) -> None:
    lr = CosineLRScheduler(PEAK, warmup_iters, lr_decay_iters, FLOOR).get_lr(iter_num)

    assert 0 < lr <= PEAK
    if iter_num != warmup_iters or iter_num != lr_decay_iters:  # there nanoGPT divides by zero
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
    """Before its beginning and after its end it holds its first and last value."""
    assert CosineLRScheduler(PEAK, 4, 10, FLOOR).get_lr(iter_num) == expected


def test_warmup_starts_above_zero_and_no_warmup_starts_at_the_peak() -> None:
    assert CosineLRScheduler(PEAK, 100, 600, FLOOR).get_lr(0) == PEAK / 101
    assert CosineLRScheduler(PEAK, 0, 600, FLOOR).get_lr(0) == PEAK


@pytest.mark.parametrize(("iter_num", "expected"), [(9, PEAK * 10 / 11), (10, FLOOR), (11, FLOOR)])
def test_decay_that_ends_with_the_warmup_drops_to_the_floor(iter_num: int, expected: float) -> None:
    assert CosineLRScheduler(PEAK, 10, 10, FLOOR).get_lr(iter_num) == expected


@pytest.mark.parametrize("iter_num", [-1, 0, 99, 100, 601])
def test_without_decay_there_is_no_warmup_either(iter_num: int) -> None:
    assert CosineLRScheduler(PEAK, 100, 600, FLOOR, decay_lr=False).get_lr(iter_num) == PEAK


def test_answers_do_not_depend_on_the_order_of_questions() -> None:
    scheduler = CosineLRScheduler(PEAK, 100, 600, FLOOR)

    forwards = [scheduler.get_lr(iter_num) for iter_num in range(700)]
    assert [scheduler.get_lr(iter_num) for iter_num in reversed(range(700))] == forwards[::-1]


def test_a_schedule_must_answer() -> None:
    with pytest.raises(TypeError, match="get_lr"):
        LRScheduler()  # type: ignore[abstract]
