"""When a checkpoint is due by count or by clock."""

from types import SimpleNamespace

import pytest

import core.checkpoint.save_schedule
from core.checkpoint.save_schedule import SaveSchedule


class Clock:
    """A monotonic clock that a test moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(core.checkpoint.save_schedule, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.mark.parametrize(
    ("interval", "expected"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (3, [3, 6]), (7, [])]
)
def test_every_nth_iteration_but_not_the_first(interval: int, expected: list[int]) -> None:
    saves = SaveSchedule(interval)

    assert [n for n in range(7) if saves.falls_on(n)] == expected


def test_what_an_evaluation_saved_or_a_resume_restored_is_not_saved_again() -> None:
    saves = SaveSchedule(2)
    saves.saved(4)

    assert not saves.falls_on(4)
    assert saves.falls_on(6)


def test_minutes_count_from_the_last_save(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    saves = SaveSchedule(minutes=2)
    clock.now += 119
    assert not saves.is_overdue()
    clock.now += 1
    assert saves.is_overdue()

    saves.saved(5)

    assert not saves.is_overdue()
    clock.now += 120
    assert saves.is_overdue()


def test_without_minutes_the_clock_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    saves = SaveSchedule()
    clock.now += 1e9

    assert not saves.is_overdue()


@pytest.mark.parametrize("minutes", [0.0, 600.0])
def test_a_save_that_failed_is_tried_again_after_a_minute(monkeypatch: pytest.MonkeyPatch, minutes: float) -> None:
    clock = Clock(monkeypatch)
    saves = SaveSchedule(minutes=minutes)
    saves.failed()
    assert not saves.is_overdue()
    clock.now += 60
    assert saves.is_overdue()

    saves.saved(9)
    clock.now += 60

    assert not saves.is_overdue()
