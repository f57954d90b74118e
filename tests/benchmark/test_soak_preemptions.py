"""A few trials of the campaign that stops runs, which must detect runs that do not stop or lose state."""

from pathlib import Path
from typing import Any

import pytest

from benchmark.soak import preemptions
from core.preemption import Preemption
from core.runtime import Runtime
from core.trainer import Trainer

IN_A_STEP, IN_A_WAIT_FOR_DATA, TWO_RANKS = 30, 9, 4


@pytest.mark.parametrize("seed", [IN_A_STEP, IN_A_WAIT_FOR_DATA, TWO_RANKS])
def test_a_stopped_run_ends_in_the_same_state(seed: int, tmp_path: Path) -> None:
    done = preemptions.trial(seed, tmp_path)

    assert done["stops"]
    assert done["world_size"] == (2 if seed == TWO_RANKS else 1)


def test_an_ignored_request_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Preemption, "_notice", lambda *_: None)

    with pytest.raises(AssertionError, match=r"\d+\] updates were begun after the request to stop"):
        preemptions.trial(IN_A_STEP, tmp_path)


def test_a_checkpoint_that_is_not_found_again_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wiring.start.where_to_start", lambda *_: ("scratch", None))

    with pytest.raises(AssertionError, match=r"went on from iteration 0, though \d+ was saved"):
        preemptions.trial(IN_A_STEP, tmp_path)


def records(stops: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the records of trials with one stop each."""
    return [{"details": {"stops": [{"signal": name, "place": place}]}} for name, place in stops]


def test_a_full_campaign_with_too_few_stops_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemptions, "WANTED", 7)
    monkeypatch.setattr(preemptions, "TRIALS", 8)
    places = [*preemptions.PLACES, preemptions.ANY_TIME]
    stops = [("SIGTERM", "step"), *(("SIGTERM", place) for place in places), ("clock", preemptions.TIME_LIMIT)]

    text = preemptions.summary(records(stops))
    assert text.startswith("7 SIGTERM: 1 any time, 1 data, ") and text.endswith(", 2 step; 1 clock: 1 time limit")
    with pytest.raises(AssertionError, match="only 6 SIGTERM, wanted 7"):
        preemptions.summary(records([("SIGINT", "step"), *stops[1:]]))
    with pytest.raises(AssertionError, match=r"no SIGTERM in: data \("):
        preemptions.summary(records([("SIGTERM", "step") if stop[1] == "data" else stop for stop in stops]))
    with pytest.raises(AssertionError, match="no stop by the time limit"):
        preemptions.summary(records([*stops[:-1], stops[0]]))
    assert preemptions.summary(records(stops[:1])) == "1 SIGTERM: 1 step"


def test_a_wait_for_data_that_is_not_abandoned_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Preemption, "guard", lambda self, work: work)
    monkeypatch.setattr(preemptions, "LIMIT_S", 1.0)

    with pytest.raises(AssertionError, match="still running after 1 s"):
        preemptions.trial(IN_A_WAIT_FOR_DATA, tmp_path)


def test_a_stop_without_a_save_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "save_final", lambda trainer: None)

    with pytest.raises(AssertionError, match=r"stopped after \d+ updates, with \d+ saved"):
        preemptions.trial(IN_A_STEP, tmp_path)


def test_an_rng_state_that_is_not_restored_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "set_rng_state", lambda self, state: None)

    with pytest.raises(AssertionError, match="another state"):
        preemptions.trial(IN_A_STEP, tmp_path)
