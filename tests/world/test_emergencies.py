"""More trials of errors that end a run in its middle, with one process and two."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmark.soak.campaign import ranks, saved_iteration, tiny_argv, train, write_tiny_data
from benchmark.soak.emergencies import PLACES, TRIALS, trial
from core.callback import Callback
from core.errors import CoreGPTError, DataError
from core.trainer import Trainer


@pytest.mark.parametrize("seed", [*range(1, 2 * len(PLACES), 2), *range(TRIALS, TRIALS + 4)])
def test_errors_cost_no_update(seed: int, tmp_path: Path) -> None:
    trial(seed, tmp_path)


@pytest.mark.parametrize(
    ("killed", "says"),
    [
        (1, "an error ends the run: no answer from rank 1, the last checkpoint is untouched; to go on: "),
        (0, "rank 1: rank 0 does not answer, the last checkpoint stands"),
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
    message = "error: another process of this run has ended without a message, it may have been killed; or the network "
    assert len(lines) == 2 and lines[1].startswith(f"{message}failed ([")
    assert "Traceback" not in output
    assert saved_iteration(tmp_path) == 4


class Fails(Callback):
    """Raises an error of the user's own on rank 1, whose text and state are as awkward as they can be."""

    def on_train_begin(self, trainer: Trainer) -> None:
        if self.is_unpicklable and trainer.runtime.rank == 1:
            trainer.step.objective.state_dict = lambda: {"lock": threading.Lock()}  # type: ignore[attr-defined]

    def __init__(self, is_unpicklable: bool) -> None:
        self.is_unpicklable = is_unpicklable

    def on_step_end(self, trainer: Trainer, result: Any) -> None:
        if trainer.iter_num == 6 and trainer.runtime.rank == 1:
            raise FileNotFoundError("/data/gloo/igloo.bin is gone")


def test_an_error_of_the_users_own_is_shown_whatever_its_text(tmp_path: Path) -> None:
    write_tiny_data(tmp_path)

    statuses = ranks(lambda: train(tiny_argv(), [Fails(is_unpicklable=False)]), folder=tmp_path)

    output = (tmp_path / "stderr.txt").read_text()
    assert statuses == [75, 1] and "FileNotFoundError: /data/gloo/igloo.bin is gone" in output
    assert "error: rank 1 ended the run, see its own message" in output
    assert saved_iteration(tmp_path) == 7


def test_a_position_that_cannot_be_sent_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    write_tiny_data(tmp_path)
    argv = tiny_argv(eval_interval=100, max_iters=8)  # saves would fail, too

    statuses = ranks(lambda: train(argv, [Fails(is_unpicklable=True)]), folder=tmp_path)

    output = (tmp_path / "stderr.txt").read_text()
    assert statuses == [75, 1] and "FileNotFoundError: " in output
    assert "an error ends the run: rank 1 has no position of iteration 7, no checkpoint was saved yet; " in output


def test_an_error_is_printed_by_the_rank_on_which_it_came_first(tmp_path: Path) -> None:
    class Gone(Callback):
        def on_step_end(self, trainer: Trainer, result: Any) -> None:
            if trainer.iter_num == 6 and trainer.runtime.rank == 1:
                raise DataError("the data are gone")

    def work() -> None:
        try:
            train(tiny_argv(), [Gone()])
        except CoreGPTError as error:
            Path(f"{os.environ['RANK']}.txt").write_text(f"{type(error).__name__} {error.is_printed_at_once}")

    write_tiny_data(tmp_path)

    assert ranks(work, folder=tmp_path) == [0, 0]
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["GroupError False", "DataError True"]
