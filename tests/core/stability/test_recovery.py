"""The budget of recoveries, and the batches that are skipped after one."""

from typing import Any

import pytest

from core.stability.recovery import GO_ON, ROLL_BACK, SKIP, STOP, Decision, Recovery


def test_the_unstable_update_is_skipped_after_the_rollback() -> None:
    recovery = Recovery()
    recovery.record_rollback("the loss is not finite", iter_num=7, back_to=4)

    assert [recovery.batches_to_skip(iter_num) for iter_num in range(4, 10)] == [0, 0, 0, 1, 0, 0]
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
def test_recovery_skip_also_skips_the_updates_around_it(skip: int, back_to: int, expected: dict[int, int]) -> None:
    recovery = Recovery(recovery_skip=skip)
    recovery.record_rollback("", iter_num=7, back_to=back_to)

    assert {n: recovery.batches_to_skip(n) for n in range(20) if recovery.batches_to_skip(n)} == expected


def test_updates_skipped_after_earlier_rollbacks_stay_skipped() -> None:
    recovery = Recovery()
    recovery.record_rollback("", iter_num=7, back_to=4)
    recovery.record_rollback("", iter_num=9, back_to=4)
    recovery.record_rollback("", iter_num=7, back_to=4)

    assert [recovery.batches_to_skip(iter_num) for iter_num in (7, 8, 9)] == [2, 0, 1]


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_the_budget_counts_the_recoveries_of_the_complete_run(budget: int) -> None:
    recovery = Recovery(max_recoveries=budget)
    for iter_num in range(budget):
        assert recovery.decide("spike", iter_num) == Decision(ROLL_BACK, iter_num, "spike")
        recovery.record_rollback("", iter_num, 0)

    decision = recovery.decide("spike", 9)

    assert decision.action == STOP
    assert decision.message == (f"iteration 9: spike; all {budget} recoveries are spent")


def test_a_failure_that_repeats_without_its_batch_stops_the_run() -> None:
    recovery = Recovery()
    for iter_num in (7, 9):
        assert recovery.decide("spike", iter_num).action == ROLL_BACK
        recovery.record_rollback("spike", iter_num, 4)

    decision = recovery.decide("spike", 7)

    assert decision.action == STOP
    assert decision.message == (
        "iteration 7: spike; its batch was skipped, and another one failed there too: the batch is not the cause"
    )


def test_with_a_lower_learning_rate_a_repeated_failure_is_recovered_from() -> None:
    recovery = Recovery(recovery_lr_factor=0.5)
    recovery.record_rollback("spike", 7, 4)

    assert recovery.decide("spike", 7).action == ROLL_BACK


@pytest.mark.parametrize("reaction", ["recover", "skip", "stop"])
def test_before_the_first_update_there_is_nothing_to_skip(reaction: str) -> None:
    decision = Recovery(reaction).decide("spike", 0, is_first=True)

    assert (decision.action, decision.iter_num) == (STOP, 0)
    assert decision.reason == "no update was made yet: the initial weights or the data are at fault"


def test_every_recovery_lowers_the_learning_rate() -> None:
    recovery = Recovery(recovery_lr_factor=0.5)

    assert recovery.lr_scale == 1.0
    recovery.record_rollback("", 3, 0)
    recovery.record_rollback("", 3, 0)
    assert recovery.lr_scale == 0.25


def test_a_resumed_run_restores_its_recoveries() -> None:
    recovery = Recovery(max_recoveries=2, recovery_skip=1, recovery_lr_factor=0.5)
    recovery.record_rollback("spike", 7, 4)
    state = recovery.state_dict()
    recovery.record_rollback("later", 9, 4)

    resumed = Recovery(max_recoveries=2, recovery_skip=1, recovery_lr_factor=0.5)
    resumed.load_state_dict(state)

    assert resumed.state_dict() == state
    assert (resumed.batches_to_skip(6), resumed.batches_to_skip(8), resumed.lr_scale) == (3, 0, 0.5)
    assert resumed.decide("spike", 8).action == ROLL_BACK


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr_scale": "x"},
        {"lr_scale": float("nan")},
        {"lr_scale": -1.0},
        {"history": [1]},
        {"history": [{}]},
        {"left_out": {4: "x"}},
        {"left_out": {"x": 4}},
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(wrong: dict[str, Any]) -> None:
    recovery = Recovery()
    before = recovery.state_dict()

    with pytest.raises(ValueError):
        recovery.load_state_dict({**before, **wrong})
    assert recovery.state_dict() == before


def test_stop_tries_no_recovery() -> None:
    decision = Recovery("stop").decide("spike", 4)

    assert decision.action == STOP
    assert decision.message == "iteration 4: spike; stopped"


def test_skip_stops_after_max_recoveries_skipped_updates_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    recovery = Recovery("skip", max_recoveries=2)
    for iter_num in (4, 5):
        assert recovery.decide("spike", iter_num).action == SKIP
    recovery.skipped_in_a_row = 0  # a stable update in between
    for iter_num in (7, 8):
        assert recovery.decide("spike", iter_num).action == SKIP

    decision = recovery.decide("spike", 9)

    assert decision.action == STOP
    assert decision.reason == "2 updates in a row were skipped before it"
    assert caplog.messages == [f"iteration {n}: spike; this update is skipped" for n in (4, 5, 7, 8)]


def test_damaged_weights_cannot_be_skipped() -> None:
    decision = Recovery("skip").decide("a weight is not finite", 4, is_made=True)

    assert decision.action == STOP
    assert decision.message == ("iteration 4: a weight is not finite; too late to skip the update")


@pytest.mark.parametrize(("reaction", "action"), [("recover", ROLL_BACK), ("stop", STOP), ("warn", GO_ON)])
def test_other_reactions_treat_damaged_weights_like_an_update(reaction: str, action: str) -> None:
    assert Recovery(reaction).decide("a weight is not finite", 4, is_made=True).action == action


def test_warn_logs_a_warning_and_continues(caplog: pytest.LogCaptureFixture) -> None:
    recovery = Recovery("warn", max_recoveries=0)

    assert recovery.decide("spike", 4).action == GO_ON
    assert caplog.messages == ["iteration 4: spike"]
    assert not recovery.suppresses_updates


@pytest.mark.parametrize("reaction", ["recover", "stop", "skip"])
def test_all_other_reactions_suppress_an_unstable_update(reaction: str) -> None:
    assert Recovery(reaction).suppresses_updates
