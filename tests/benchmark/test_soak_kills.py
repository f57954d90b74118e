"""A few trials of the campaign that kills runs, which must detect lost state."""

from pathlib import Path
from typing import Any

import pytest

from benchmark.soak import kills
from core.checkpoint.manager import CheckpointManager
from core.runtime import Runtime

KILLED_IN_A_SAVE, KILLED_TWICE = 4, 14


@pytest.mark.parametrize("seed", [KILLED_IN_A_SAVE, KILLED_TWICE])
def test_a_killed_run_ends_in_the_same_state(seed: int, tmp_path: Path) -> None:
    kills_made = kills.trial(seed, tmp_path)["kills"]

    assert kills_made[0]["inside"]


def test_two_ranks_end_in_the_same_state(tmp_path: Path) -> None:
    assert kills.trial(8, tmp_path)["world_size"] == 2


def test_an_rng_state_that_is_not_restored_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "set_rng_state", lambda self, state: None)

    with pytest.raises(AssertionError, match="another state"):
        kills.trial(KILLED_IN_A_SAVE, tmp_path)


def test_a_checkpoint_that_is_not_found_again_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wiring.start.where_to_start", lambda *_: ("scratch", None))

    with pytest.raises(AssertionError, match=r"went on from iteration 0, though \d+ was saved"):
        kills.trial(KILLED_IN_A_SAVE, tmp_path)


def test_retention_that_keeps_everything_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckpointManager, "_rotate", lambda self, newest: None)

    with pytest.raises(AssertionError, match="more checkpoints kept than wanted"):
        kills.trial(KILLED_IN_A_SAVE, tmp_path)


def test_too_few_kills_inside_a_save_are_refused() -> None:
    records: list[dict[str, Any]] = [{"details": {"kills": [{"inside": number == 0}]}} for number in range(4)]

    assert kills.summary(records) == "1 of 4 kills inside a save"
    with pytest.raises(AssertionError, match="only 1 of 5 kills"):
        kills.summary([*records, records[-1]])
