"""A few trials of the campaign of errors, which must detect states that are not saved or not restored."""

from pathlib import Path
from typing import Any

import pytest

from benchmark.soak import emergencies
from benchmark.soak.emergencies import AFTER, HALFWAY, PLACES, TRIALS, trial
from core.checkpoint.checkpointer import Checkpointer
from core.trainer import Trainer


@pytest.mark.parametrize("seed", [0, 5, 218])
def test_errors_cost_no_update(seed: int, tmp_path: Path) -> None:
    done = trial(seed, tmp_path)

    assert done["world_size"] == 1 + seed % 2
    assert done["place"] == (HALFWAY if seed >= TRIALS else PLACES[seed // 2 % len(PLACES)])
    other = f"error: rank {done['rank']} ended the run, see its own message"
    assert (tmp_path / "stderr.txt").read_text().count(other) == seed % 2


@pytest.mark.parametrize("seed", [2, 3])
def test_a_position_that_is_not_restored_is_noticed(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.checkpoint.emergency._positions", lambda trainer: {})
    monkeypatch.setattr(Checkpointer, "restore_position", lambda *_: None)

    with pytest.raises(AssertionError, match="another end|are saved"):
        trial(seed, tmp_path)


def test_a_state_that_is_not_saved_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "save_final", lambda trainer: None)

    with pytest.raises(AssertionError, match=r"updates were complete, \d+ are saved"):
        trial(0, tmp_path)


def record(place: str, world_size: int) -> dict[str, Any]:
    return {"details": {"place": place, "world_size": world_size, "fused": place == AFTER}}


def test_a_full_campaign_that_misses_a_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(place, size) for place in PLACES for size in (1, 2)]
    monkeypatch.setattr(emergencies, "TRIALS", len(records) - 1)

    text = emergencies.summary([*records, record(HALFWAY, 2)])
    assert text.startswith("errors with one process + two: 1 + 1 data, ") and text.endswith(
        "0 + 1 optimizer halfway; 2 fused"
    )
    with pytest.raises(AssertionError, match=r"never tried: \[\('data', 1\)\]"):
        emergencies.summary(records[1:])
    assert emergencies.summary(records[:1]).endswith(": 1 + 0 data; 0 fused")
