"""StopRequest: one process, several processes, preemption."""

import pytest

from core.errors import PreemptedError
from core.preemption import Preemption
from core.stop_request import StopRequest


def test_a_single_process_stops_at_its_own_request() -> None:
    stop = StopRequest(Preemption(), is_alone=True)
    assert (stop.reason, stop.is_requested) == (None, False)

    stop.request("enough")

    assert (stop.reason, stop.is_requested, stop.is_preempted) == ("enough", True, False)
    stop.raise_if_preempted(3, "COMMAND")


def test_several_processes_stop_when_all_have_agreed() -> None:
    requesting, other = (StopRequest(Preemption(), is_alone=False) for _ in range(2))
    requesting.request("enough")
    assert requesting.is_requested and requesting.reason is None

    for stop in (requesting, other):
        stop.agree(is_preempted=False, is_requested=True)

    assert (requesting.reason, other.reason) == ("enough", "another process asked for it")


def test_without_a_request_nothing_stops_the_run() -> None:
    stop = StopRequest(Preemption(), is_alone=False)
    stop.agree(is_preempted=False, is_requested=False)

    assert stop.reason is None and not stop.is_preempted


@pytest.mark.parametrize(
    ("saved_at", "message"),
    [
        (7, "stopped by the time limit of 0 hours at iteration 7; to go on: COMMAND"),
        (0, "stopped by the time limit of 0 hours at iteration 0; to go on: COMMAND"),
        (None, "stopped by the time limit of 0 hours before the first update"),
    ],
)
def test_the_preempted_error_names_the_iteration_to_resume_from(saved_at: int | None, message: str) -> None:
    stop = StopRequest(Preemption(time_limit_hours=0.0), is_alone=True)
    stop.agree(is_preempted=True, is_requested=True)

    with pytest.raises(PreemptedError) as error:
        stop.raise_if_preempted(saved_at, "COMMAND")
    assert (str(error.value), error.value.exit_status) == (message, 75)


def test_a_signal_to_another_process_is_named_as_the_reason() -> None:
    stop = StopRequest(Preemption(), is_alone=False)
    stop.preempt()

    assert stop.reason == "a signal to another process"
