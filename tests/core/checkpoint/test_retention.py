"""Retention: the newest, the best, and always one to come back to."""

import random

import pytest

from core.checkpoint.manifest import Manifest
from core.checkpoint.retention import to_keep


def some(*losses: float | None, sick: tuple[int, ...] = ()) -> list[Manifest]:
    """Return manifests numbered from 1, with these validation losses."""
    return [
        {"sequence": number, "val_loss": loss, "healthy": number not in sick}
        for number, loss in enumerate(losses, start=1)
    ]


def test_the_newest_stay_by_their_number_in_whatever_order_they_are_given() -> None:
    manifests = some(None, None, None, None)

    assert to_keep(manifests, last=2, best=0) == to_keep(manifests[::-1], last=2, best=0) == {3, 4}


def test_numbers_are_compared_as_numbers() -> None:
    manifests: list[Manifest] = [
        {"sequence": number, "val_loss": None, "healthy": True} for number in (999_999, 1_000_000, 99)
    ]

    assert to_keep(manifests, last=1, best=0) == {1_000_000}


@pytest.mark.parametrize(("best", "kept"), [(0, {5}), (1, {2, 5}), (2, {2, 3, 5}), (9, {1, 2, 3, 5})])
def test_the_best_stay_beside_the_newest(best: int, kept: set[int]) -> None:
    assert to_keep(some(3.0, 1.0, 2.0, None, None), last=1, best=best) == kept


def test_a_loss_of_zero_is_a_loss() -> None:
    assert to_keep(some(0.0, 1.0, None), last=1, best=1) == {1, 3}


def test_of_equal_losses_the_older_stays() -> None:
    assert to_keep(some(1.0, 1.0, 1.0, None), last=1, best=1) == {1, 4}


def test_the_newest_healthy_one_stays_whatever_comes_after_it() -> None:
    assert to_keep(some(None, None, None, None, sick=(3, 4)), last=1, best=0) == {2, 4}
    assert to_keep(some(None, None, 0.5, 0.4, sick=(3, 4)), last=2, best=1) == {2, 3, 4}


def test_the_one_with_a_second_name_stays() -> None:
    assert to_keep(some(None, None, None), last=1, best=0, linked=1) == {1, 3}


def test_of_none_none_stays() -> None:
    assert to_keep([], last=2, best=1) == set()


def test_as_many_stay_as_there_are() -> None:
    assert to_keep(some(None, None), last=9, best=9) == {1, 2}


def test_a_thousand_runs_always_keep_their_best_and_their_newest_healthy() -> None:
    """What rotation after rotation leaves is what one look at all of them would have left."""
    draw = random.Random(0)
    for _ in range(1000):
        last, best, kept = draw.randint(1, 3), draw.randint(0, 2), []
        made = some(*(draw.choice([None, 1.0, 2.0, 3.0]) for _ in range(9)), sick=tuple(draw.sample(range(1, 10), 4)))
        for number, manifest in enumerate(made, start=1):
            kept.append(manifest)
            numbers = to_keep(kept, last=last, best=best)
            kept = [one for one in kept if one["sequence"] in numbers]
            so_far = made[:number]

            assert {one["sequence"] for one in so_far[-last:]} <= numbers
            measured = sorted((one["val_loss"], one["sequence"]) for one in so_far if one["val_loss"] is not None)
            assert {sequence for _, sequence in measured[:best]} <= numbers
            healthy = [one["sequence"] for one in so_far if one["healthy"]]
            assert set(healthy[-1:]) <= numbers
            assert len(numbers) <= last + best + 1
