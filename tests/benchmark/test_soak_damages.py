"""A few trials of the campaign of damaged checkpoints, which must detect broken code."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.soak.campaign import OUT
from benchmark.soak.damages import (
    KINDS,
    STOPS,
    Victim,
    check_loading,
    damage,
    flipped,
    hostile_in_place,
    overwritten_by_another,
    stopped_run,
    trial,
)
from core.runtime import Runtime


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_damage_is_noticed_by_loading(
    kind: Callable[[Victim], None], links: bool, tmp_path: Path
) -> None:
    stopped = stopped_run(STOPS[links])
    stopped.write(tmp_path / OUT, links)
    assert stopped.is_intact(tmp_path / OUT, stopped.newest)
    names = damage(random.Random(0), kind, tmp_path / OUT, stopped)

    assert names[0] == kind.__name__
    check_loading(tmp_path / OUT, stopped, is_foreign=kind is overwritten_by_another)


@pytest.mark.parametrize("seed", [0, 2, len(KINDS) - 1])
def test_a_damaged_run_ends_in_the_same_state(seed: int, tmp_path: Path) -> None:
    details = trial(seed, tmp_path)

    assert details["kinds"][0] == KINDS[seed].__name__


def test_a_checkpoint_that_is_not_verified_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("core.checkpoint.search.verify", lambda manifest, folder, _: folder / manifest["file"])

    with pytest.raises(AssertionError, match="not noticed|which is damaged"):
        trial(KINDS.index(flipped), tmp_path)


def test_a_resume_that_is_not_exact_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stopped_run(STOPS[0]), stopped_run(STOPS[1])  # made before the code is broken
    monkeypatch.setattr(Runtime, "set_rng_state", lambda runtime, state: None)

    with pytest.raises(AssertionError, match="another state"):
        trial(KINDS.index(flipped), tmp_path)


def test_a_checkpoint_that_is_not_found_again_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("wiring.start.where_to_start", lambda *_: ("scratch", None))

    with pytest.raises(AssertionError, match=r"went on from iteration 0, though \d+ was saved"):
        trial(KINDS.index(flipped), tmp_path)


def test_a_checkpoint_that_runs_code_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load = torch.load

    def unsafe_load(*arguments: Any, **options: Any) -> Any:
        return load(*arguments, **{**options, "weights_only": False})

    stopped = stopped_run(STOPS[0])  # ckpt.pt is linked to its newest checkpoint, and is read first
    stopped.write(tmp_path / OUT, links=True)
    damage(random.Random(0), hostile_in_place, tmp_path / OUT, stopped)
    monkeypatch.setattr("core.checkpoint.format.torch.load", unsafe_load)

    with pytest.raises(AssertionError, match="loading changed"):
        check_loading(tmp_path / OUT, stopped, is_foreign=False)
