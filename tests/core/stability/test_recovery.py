"""The budget of recoveries, and the batches that are left out after one."""

import pytest

from core.errors import DivergedError
from core.stability.recovery import Recovery


def never() -> str:
    raise AssertionError("diagnosed although the run goes on")


def test_the_offending_update_is_left_out_once_the_run_comes_to_it_again() -> None:
    recovery = Recovery()
    recovery.record("the loss is not finite", iter_num=7, back_to=4)

    assert [recovery.left_out(iter_num) for iter_num in range(4, 10)] == [0, 0, 0, 1, 0, 0]
    assert recovery.history == [{"iter": 7, "cause": "the loss is not finite", "back_to": 4}]


@pytest.mark.parametrize(
    ("skip", "back_to", "expected"),
    [
        (1, 4, {6: 3}),  # 6, 7 and 8
        (3, 4, {4: 7}),  # 4 to 10
        (5, 4, {4: 9}),  # 2 and 3 are past: 4 to 12
        (2, 7, {7: 3}),
    ],
)
def test_updates_around_it_are_left_out_on_request(skip: int, back_to: int, expected: dict[int, int]) -> None:
    recovery = Recovery(recovery_skip=skip)
    recovery.record("", iter_num=7, back_to=back_to)

    assert {n: recovery.left_out(n) for n in range(20) if recovery.left_out(n)} == expected


def test_what_was_left_out_before_stays_left_out() -> None:
    recovery = Recovery()
    recovery.record("", iter_num=7, back_to=4)
    recovery.record("", iter_num=9, back_to=4)
    recovery.record("", iter_num=7, back_to=4)

    assert [recovery.left_out(iter_num) for iter_num in (7, 8, 9)] == [2, 0, 1]


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_the_budget_is_the_whole_runs(budget: int) -> None:
    recovery = Recovery(max_recoveries=budget)
    for iter_num in range(budget):
        assert recovery.decide("spike", iter_num, never)
        recovery.record("", iter_num, 0)

    with pytest.raises(
        DivergedError, match=f"^iteration 9: spike; all {budget} recoveries are spent, the last .*\n42$"
    ):
        recovery.decide("spike", 9, lambda: "42")


def test_every_recovery_slows_the_rest_of_the_run_down() -> None:
    recovery = Recovery(recovery_lr_factor=0.5)

    assert recovery.lr_scale == 1.0
    recovery.record("", 3, 0)
    recovery.record("", 3, 0)
    assert recovery.lr_scale == 0.25


def test_a_resumed_run_knows_all_of_it() -> None:
    recovery = Recovery(max_recoveries=2, recovery_skip=1, recovery_lr_factor=0.5)
    recovery.record("spike", 7, 4)
    state = recovery.state_dict()
    recovery.record("later", 9, 4)

    resumed = Recovery(max_recoveries=2, recovery_skip=1, recovery_lr_factor=0.5)
    resumed.load_state_dict(state)

    assert resumed.state_dict() == state
    assert (resumed.left_out(6), resumed.left_out(8), resumed.lr_scale) == (3, 0, 0.5)
    assert resumed.decide("spike", 8, never)


def test_nothing_is_tried_where_the_run_is_to_stop() -> None:
    with pytest.raises(DivergedError, match="^iteration 4: spike; stopped, the last checkpoint is untouched\nwhy$"):
        Recovery("stop").decide("spike", 4, lambda: "why")


def test_updates_are_left_out_up_to_a_number_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    recovery = Recovery("skip", max_recoveries=2)
    for iter_num in (4, 5):
        assert not recovery.decide("spike", iter_num, never)
    recovery.dropped = 0  # a sound one between
    for iter_num in (7, 8):
        assert not recovery.decide("spike", iter_num, never)

    with pytest.raises(DivergedError, match="^iteration 9: spike; 2 updates in a row were left out before it"):
        recovery.decide("spike", 9, lambda: "")
    assert caplog.messages == [f"iteration {n}: spike; this update is left out" for n in (4, 5, 7, 8)]


def test_a_warning_is_all_that_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    recovery = Recovery("warn", max_recoveries=0)

    assert not recovery.decide("spike", 4, never)
    assert caplog.messages == ["iteration 4: spike"]
    assert not recovery.leaves_out and not recovery.healthy


@pytest.mark.parametrize("reaction", ["recover", "stop", "skip"])
def test_whatever_else_is_asked_for_leaves_an_unsound_update_out(reaction: str) -> None:
    assert Recovery(reaction).leaves_out
