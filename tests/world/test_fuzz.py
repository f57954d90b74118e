"""Bad inputs of every kind: a sample of the fuzz campaign."""

from pathlib import Path

import pytest

from benchmark.soak.fuzz import trial

SEED, TRIALS = 700_000, 80


@pytest.mark.parametrize("part", range(4))
def test_bad_inputs_end_with_a_message_or_are_accepted(part: int, tmp_path: Path) -> None:
    statuses = []
    for seed in range(SEED + part, SEED + TRIALS, 4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        statuses.append(trial(seed, folder)["status"])

    assert len(statuses) == TRIALS // 4 and {0, 2} <= set(statuses)
