"""SaveSchedule: saves that are due by iterations, by minutes or on request."""

from types import SimpleNamespace

import pytest

import core.checkpoint.save_schedule
from core.checkpoint.save_schedule import SaveSchedule


class Clock:
    """A monotonic clock that a test advances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(core.checkpoint.save_schedule, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.mark.parametrize(
    ("interval", "expected"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (3, [3, 6]), (7, [])]
)
def test_every_nth_iteration_but_not_the_first(interval: int, expected: list[int]) -> None:
    saves = SaveSchedule(interval)

    assert [n for n in range(7) if saves.is_due(n)] == expected


def test_an_iteration_that_is_already_saved_is_not_due() -> None:
    saves = SaveSchedule(2)
    saves.saved(4)

    assert not saves.is_due(4)
    assert saves.is_due(6)


def test_minutes_count_from_the_last_save(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    saves = SaveSchedule(minutes=2)
    clock.now += 119
    assert not saves.wants_save()
    clock.now += 1
    assert saves.wants_save()

    saves.saved(5)

    assert not saves.wants_save()
    clock.now += 120
    assert saves.wants_save()


def test_without_minutes_no_save_is_due_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    saves = SaveSchedule()
    clock.now += 1e9

    assert not saves.wants_save()


@pytest.mark.parametrize("minutes", [0.0, 600.0])
def test_a_failed_save_is_tried_again_after_a_minute(monkeypatch: pytest.MonkeyPatch, minutes: float) -> None:
    clock = Clock(monkeypatch)
    saves = SaveSchedule(minutes=minutes)
    saves.failed()
    assert not saves.wants_save()
    clock.now += 60
    assert saves.wants_save()

    saves.saved(9)
    clock.now += 60

    assert not saves.wants_save()


def test_a_requested_save_is_due_when_all_ranks_agree() -> None:
    saves = SaveSchedule()
    saves.request()
    assert saves.wants_save() and not saves.is_due(3)

    saves.is_agreed = True
    assert saves.is_due(3)

    saves.saved(3)
    assert not saves.wants_save() and not saves.is_due(4)


def test_a_request_is_dropped_if_there_is_nothing_to_save() -> None:
    saves = SaveSchedule()
    saves.request()
    saves.is_agreed = True

    saves.dropped()

    assert not saves.wants_save() and not saves.is_due(4)


def test_a_rollback_drops_requests_and_sets_the_last_save() -> None:
    saves = SaveSchedule(2)
    saves.saved(6)
    saves.request()
    saves.is_agreed = True

    saves.rolled_back(4)

    assert (saves.saved_at, saves.wants_save(), saves.is_due(5)) == (4, False, False)
    assert saves.is_due(6)
