"""A few trials of the campaign of stable runs, which must detect false alarms."""

from pathlib import Path

import pytest
import torch

from benchmark.soak import false_alarms
from benchmark.soak.false_alarms import largest_score, trial
from core import InstabilityDetector


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(false_alarms, "ITERATIONS", 60)
    monkeypatch.setattr(false_alarms, "WINDOW", 20)
    monkeypatch.setattr(false_alarms, "WARMUPS", (0, 10))


@pytest.mark.parametrize("seed", [1, 2])
def test_stable_runs_raise_no_alarm(seed: int, tmp_path: Path) -> None:
    details = trial(seed, tmp_path)
    assert details["loss"] < false_alarms.OUT_OF_REACH and 0 < details["grad_norm"] < false_alarms.OUT_OF_REACH


def test_an_alarm_in_a_stable_run_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(false_alarms, "OUT_OF_REACH", 0.1)
    with pytest.raises(AssertionError, match="false alarms|ended with"):
        trial(1, tmp_path)


def test_a_search_for_spikes_that_changes_the_run_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_spikes = InstabilityDetector.check_spikes

    def check_and_draw(self: InstabilityDetector, loss: torch.Tensor, grad_norm: torch.Tensor) -> list[torch.Tensor]:
        torch.rand(())
        return check_spikes(self, loss, grad_norm)

    monkeypatch.setattr(InstabilityDetector, "check_spikes", check_and_draw)
    with pytest.raises(AssertionError, match="has changed the run"):
        trial(1, tmp_path)


def test_the_score_is_the_threshold_at_which_the_detector_stays_silent() -> None:
    values = [2.0 + 0.1 * (number % 7) for number in range(20)] + [9.0]
    score = largest_score(values, warmup=0, window=20)
    for threshold, silent in ((score * 1.001, True), (score * 0.999, False)):
        detector = InstabilityDetector(spike_threshold=threshold, spike_window=20)
        flags = [detector.inspect(torch.tensor(value), torch.tensor(1.0), {}) for value in values]
        assert bool(flags[-1][3]) is not silent
