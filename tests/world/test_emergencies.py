"""More trials of errors that end a run in its middle, with one process and two."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from benchmark.soak.campaign import ranks, saved_iteration, tiny_argv, train, write_tiny_data
from benchmark.soak.emergencies import PLACES, TRIALS, trial
from core.callback import Callback
from core.trainer import Trainer


@pytest.mark.parametrize("seed", [*range(1, 2 * len(PLACES), 2), *range(TRIALS, TRIALS + 4)])
def test_errors_cost_no_update(seed: int, tmp_path: Path) -> None:
    trial(seed, tmp_path)


@pytest.mark.parametrize(
    ("killed", "says"),
    [
        (1, "an error ends the run: no answer from rank 1, the last checkpoint is untouched; to go on: "),
        (0, "rank 1: rank 0 has saved nothing, as it has ended or does not answer"),
    ],
)
def test_after_a_rank_was_killed_the_last_checkpoint_stands(killed: int, says: str, tmp_path: Path) -> None:
    class Kills(Callback):
        def on_step_end(self, trainer: Trainer, result: Any) -> None:
            if trainer.iter_num == 6 and trainer.runtime.rank == killed:
                os.kill(os.getpid(), signal.SIGKILL)

    write_tiny_data(tmp_path)

    statuses = ranks(lambda: train(tiny_argv(), [Kills()]), folder=tmp_path)

    output = (tmp_path / "stderr.txt").read_text()
    # without torch's own lines about the store, which ends with rank 0
    lines = [line for line in output.splitlines() if line.startswith(("rank ", "an error ", "error: "))]
    assert (statuses[killed], statuses[1 - killed]) == (-signal.SIGKILL, 75)
    assert lines[0].startswith(says)
    assert lines[1:] == [
        "error: another process of this run has ended without a message: it may have been killed",
    ]
    assert "Traceback" not in output
    assert saved_iteration(tmp_path) == 4
