"""A few trials of the campaign of injections, which must detect broken guarantees."""

import random
from pathlib import Path
from typing import Any

import pytest

import core
from benchmark.soak import injections
from benchmark.soak.injections import Injection, Plan, trial
from core.checkpoint.checkpointer import Checkpointer

NAN_LOSS = Injection("loss", float("nan"), 0, 6, 1, "transformer.wpe.weight", 0.5)


def plan(*injected: Injection, trigger: str = "once", **options: Any) -> Plan:
    """Return a plan for one process that saves every other iteration."""
    return Plan(1, trigger, False, {"save_interval": 2, **options}, list(injected))


@pytest.mark.parametrize("seed", [0, 3, 8, 16, 18, 38])  # 8: a fused optimizer
def test_runs_recover_stop_or_skip_unstable_updates(seed: int, tmp_path: Path) -> None:
    assert trial(seed, tmp_path)["statuses"]


def test_an_unstable_update_that_is_made_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = core.TrainingStep._update
    monkeypatch.setattr(core.TrainingStep, "_update", lambda self, unstable: update(self, None))
    with pytest.raises(AssertionError, match="changed nothing, wanted"):
        injections._try_recovery(plan(NAN_LOSS), random.Random(0), tmp_path)


def test_a_checkpoint_that_is_not_found_again_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wiring.start.where_to_start", lambda *_: ("scratch", None))
    for seed, name in ((0, "recovers"), (18, "stops")):
        (tmp_path / name).mkdir()
        with pytest.raises(AssertionError, match=r"went on from iteration 0, though \d+ was saved"):
            trial(seed, tmp_path / name)


def test_a_full_campaign_with_too_few_recoveries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(injections, "TRIALS", 2)
    monkeypatch.setattr(injections, "WANTED", 2)
    recovers = {"details": {"targets": ["loss"], "recovered": 1}}
    stops: dict[str, Any] = {"details": {"targets": ["weight"]}}

    assert "2 runs recovered" in injections._summary([recovers, recovers])
    with pytest.raises(AssertionError, match="only 1 runs recovered, wanted 2"):
        injections._summary([recovers, stops])


def test_a_bad_checkpoint_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpointer, "is_finite", lambda self: True)
    late = NAN_LOSS._replace(target="late weight", iter_num=5)  # right before a save
    with pytest.raises(AssertionError, match="checkpoints with non-finite numbers"):
        injections._try_recovery(plan(late), random.Random(0), tmp_path)


def test_a_batch_that_is_not_skipped_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.Recovery, "batches_to_skip", lambda self, iter_num: 0)
    with pytest.raises(AssertionError, match="ended with"):
        injections._try_recovery(plan(NAN_LOSS, trigger="content"), random.Random(0), tmp_path)
