"""Retention: the newest, the best, and always the newest healthy checkpoint."""

import random

import pytest

from core.checkpoint.manifest import Manifest
from core.checkpoint.retention import to_keep


def manifests_with(*losses: float | None, unhealthy: tuple[int, ...] = ()) -> list[Manifest]:
    """Return manifests numbered from 1, with these validation losses."""
    return [
        {"sequence": number, "val_loss": loss, "healthy": number not in unhealthy}
        for number, loss in enumerate(losses, start=1)
    ]


def test_the_newest_are_kept_by_number_in_any_order_of_the_input() -> None:
    manifests = manifests_with(None, None, None, None)

    assert to_keep(manifests, last=2, best=0) == to_keep(manifests[::-1], last=2, best=0) == {3, 4}


def test_numbers_are_compared_as_numbers() -> None:
    manifests: list[Manifest] = [
        {"sequence": number, "val_loss": None, "healthy": True} for number in (999_999, 1_000_000, 99)
    ]

    assert to_keep(manifests, last=1, best=0) == {1_000_000}


@pytest.mark.parametrize(("best", "kept"), [(0, {5}), (1, {2, 5}), (2, {2, 3, 5}), (9, {1, 2, 3, 5})])
def test_the_best_are_kept_in_addition_to_the_newest(best: int, kept: set[int]) -> None:
    assert to_keep(manifests_with(3.0, 1.0, 2.0, None, None), last=1, best=best) == kept


def test_losses_on_other_data_do_not_compare() -> None:
    manifests = manifests_with(0.1, 3.0, 2.0, 4.0, None)
    for manifest in manifests:
        manifest["data_fingerprint"] = "old" if manifest["sequence"] == 1 else "new"

    assert to_keep(manifests, last=1, best=1) == {3, 5}


def test_a_loss_of_zero_counts_as_a_loss() -> None:
    assert to_keep(manifests_with(0.0, 1.0, None), last=1, best=1) == {1, 3}


def test_of_equal_losses_the_oldest_is_kept() -> None:
    assert to_keep(manifests_with(1.0, 1.0, 1.0, None), last=1, best=1) == {1, 4}


def test_the_newest_healthy_checkpoint_is_always_kept() -> None:
    assert to_keep(manifests_with(None, None, None, None, unhealthy=(3, 4)), last=1, best=0) == {2, 4}
    assert to_keep(manifests_with(None, None, 0.5, 0.4, unhealthy=(3, 4)), last=2, best=1) == {2, 3, 4}


def test_the_linked_checkpoint_is_kept() -> None:
    assert to_keep(manifests_with(None, None, None), last=1, best=0, linked=1) == {1, 3}


def test_without_checkpoints_none_is_kept() -> None:
    assert to_keep([], last=2, best=1) == set()


def test_all_checkpoints_are_kept_if_there_are_fewer_than_last() -> None:
    assert to_keep(manifests_with(None, None), last=9, best=9) == {1, 2}


def test_repeated_rotation_keeps_the_best_and_the_newest_healthy() -> None:
    """A rotation after every save never removes a checkpoint that has to be kept later, in 1000 random runs."""
    draw = random.Random(0)
    for _ in range(1000):
        last, best, kept = draw.randint(1, 3), draw.randint(0, 2), []
        saved = manifests_with(
            *(draw.choice([None, 1.0, 2.0, 3.0]) for _ in range(9)), unhealthy=tuple(draw.sample(range(1, 10), 4))
        )
        for number, manifest in enumerate(saved, start=1):
            kept.append(manifest)
            numbers = to_keep(kept, last=last, best=best)
            kept = [one for one in kept if one["sequence"] in numbers]
            so_far = saved[:number]

            assert {one["sequence"] for one in so_far[-last:]} <= numbers
            measured = sorted((one["val_loss"], one["sequence"]) for one in so_far if one["val_loss"] is not None)
            assert {sequence for _, sequence in measured[:best]} <= numbers
            healthy = [one["sequence"] for one in so_far if one["healthy"]]
            assert set(healthy[-1:]) <= numbers
            assert len(numbers) <= last + best + 1
