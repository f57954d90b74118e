"""The lines at the end of a run: figures, files, and commands that work."""

import logging
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from core.callback import Callback
from core.checkpoint.retention import by_loss
from core.checkpoint.run_folder import CONFIG_MARK
from core.checkpoint.search import CheckpointSearch
from core.errors import PreemptedError
from core.logger import CompositeLogger
from extras.run_summary import RunSummary
from tests.core.tiny_run import tiny_trainer


@pytest.fixture
def summary(caplog: pytest.LogCaptureFixture) -> Iterator[RunSummary]:
    with caplog.at_level(logging.INFO, logger="coregpt"):
        yield RunSummary()


def run(folder: Path, summary: RunSummary, *callbacks: Callback, **numbers: Any) -> Any:
    """Train a tiny model, and return its trainer."""
    trainer = tiny_trainer(folder, callbacks=[summary, *callbacks], logger=CompositeLogger([summary]), **numbers)
    trainer.train()
    return trainer


def best_saved(folder: Path) -> dict[str, Any]:
    """Return the manifest of the checkpoint with the lowest validation loss."""
    return by_loss(CheckpointSearch(folder).manifests.values())[0]


class StopAt(Callback):
    def __init__(self, iter_num: int, preempted: bool = False) -> None:
        self.iter_num = iter_num
        self.preempted = preempted

    def on_step_end(self, trainer: Any, result: Any) -> None:
        if trainer.iter_num == self.iter_num and self.preempted:
            trainer.stop_request.preempt()
        elif trainer.iter_num == self.iter_num:
            trainer.stop("enough")


def test_the_summary_has_losses_time_files_and_commands(
    tmp_path: Path, summary: RunSummary, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a b").mkdir()
    Path("a b/config.yaml").write_text(f"{CONFIG_MARK}\n")
    run(Path("a b"), summary, tokens_per_iter=1000)

    (loss, best), (last, at) = summary.best or (0, 0), summary.val or (0, 0)
    assert loss < last and best < at == 6
    lines = [re.sub(r"\d+\.\d s, [\d,]+ tokens", "T s, N tokens", message) for message in caplog.messages]
    saved = best_saved(Path("a b"))
    assert lines == [
        f"validation loss: best {loss:.4f} (iteration {best}), last {last:.4f} (iteration 6)",
        f"training loss: last {summary.train[0] if summary.train else 0:.4f} (iteration 6)",
        "7 updates in T s, N tokens/s",
        f"saved in a b: ckpt-000004.pt (newest), {saved['file']} (best), ckpt.pt",
        "to train longer: python train.py 'a b/config.yaml' --init_from=resume --max_iters=12",
        "to sample: python sample.py --out_dir='a b'",
    ]


def test_a_run_that_was_stopped_goes_on_by_the_usual_command(
    tmp_path: Path, summary: RunSummary, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = run(tmp_path, summary, StopAt(3))

    assert f"to go on: {trainer.checkpointer.resume_command()}" in caplog.messages
    assert not [message for message in caplog.messages if "tokens/s" in message]  # they are not known


def test_after_a_signal_that_command_is_in_the_last_message_alone(
    tmp_path: Path, summary: RunSummary, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(PreemptedError, match="to go on: "):
        run(tmp_path, summary, StopAt(3, preempted=True))

    assert len(caplog.messages) == 5 and not [line for line in caplog.messages if "init_from" in line]


def test_a_run_without_an_update_has_no_summary(
    tmp_path: Path, summary: RunSummary, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, summary, max_iters=-1)

    assert caplog.messages == []


def test_the_best_loss_of_an_earlier_process_has_its_iteration(tmp_path: Path, summary: RunSummary) -> None:
    """It is the manifest's; without the checkpoint the loss stands alone."""
    trainer = run(tmp_path, summary)
    saved = best_saved(tmp_path)
    trainer.counters.lowest_val_loss = saved["val_loss"]
    later = RunSummary()
    later.log_eval({"val/loss": torch.tensor(9.0), "iter": 8})

    best = f"{saved['val_loss']:.4f} (iteration {saved['iter_num']})"
    assert next(later.lines(trainer)) == f"validation loss: best {best}, last 9.0000 (iteration 8)"
    trainer.counters.lowest_val_loss = 0.5
    assert next(later.lines(trainer)) == "validation loss: best 0.5000, last 9.0000 (iteration 8)"


def test_a_loss_that_is_not_finite_is_never_the_best() -> None:
    summary = RunSummary()
    for iter_num, loss in enumerate((float("nan"), 2.0, float("nan"))):
        summary.log_eval({"val/loss": torch.tensor(loss), "iter": iter_num})

    assert summary.best == (2.0, 1)


@pytest.mark.parametrize(("made", "text"), [(1, "1 recovery from instability"), (2, "2 recoveries from instability")])
def test_recoveries_are_counted(tmp_path: Path, summary: RunSummary, made: int, text: str) -> None:
    trainer = run(tmp_path, summary)
    trainer.monitor.recovery.history.extend({"iter": number} for number in range(made))

    assert any(line.endswith(text) for line in summary.lines(trainer))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7384, "2 h 3 min")]
)
def test_times_are_short(tmp_path: Path, summary: RunSummary, seconds: float, text: str) -> None:
    trainer = run(tmp_path, summary)
    trainer.report._began += trainer.report.elapsed_s - seconds

    assert any(line == f"7 updates in {text}" for line in summary.lines(trainer))


def test_the_command_that_trains_longer_goes_on_to_the_same_bits(
    run_dir: Path, tiny_argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*tiny_argv, "--out_dir=undisturbed", "--max_iters=6"])
    train.main([*tiny_argv, "--out_dir=out", "--max_iters=3"])
    (command,) = re.findall(r"^to train longer: python train.py (.*)$", capsys.readouterr().err, re.M)[1:]

    train.main(shlex.split(command))

    ours, theirs = (torch.load(f"{folder}/ckpt.pt", weights_only=True) for folder in ("out", "undisturbed"))
    assert ours["iter_num"] == 6 and all(
        torch.equal(ours["model"][name], theirs["model"][name]) for name in ours["model"]
    )
