"""The checks of the campaign that restarts ranks; tests/world launches a trial."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmark.soak import kills, restarts
from benchmark.soak.campaign import Setup
from benchmark.soak.killed_rank import STARTS, Kill, kill_file, pid_file

SETUP = Setup((), 2)
PLAN = [Kill("step", 1, at=3), Kill(restarts.ANY_TIME, 0, seconds=1.5)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a launch that was killed once, and ended well."""
    monkeypatch.setattr(kills, "check_end", lambda *args, **kwargs: None)
    write_starts(tmp_path, [(0, 0), (4, 4)])
    for start in range(2):
        (tmp_path / pid_file(start, 0)).touch()
    (tmp_path / kill_file(0)).touch()
    return tmp_path


def write_starts(folder: Path, starts: list[tuple[int, int]]) -> None:
    lines = [json.dumps({"iter_num": iter_num, "saved": saved}) + "\n" for iter_num, saved in starts]
    (folder / STARTS).write_text("".join(lines))


def test_the_kills_that_led_to_a_restart_are_counted(folder: Path) -> None:
    assert restarts.check_launch(SETUP, folder, PLAN) == [{"place": "step", "rank": 1, "at": 3}]
    (folder / kill_file(1)).touch()  # hit a rank that had finished
    assert len(restarts.check_launch(SETUP, folder, PLAN)) == 1


def test_a_restart_without_a_kill_is_noticed(folder: Path) -> None:
    (folder / pid_file(2, 0)).touch()

    with pytest.raises(AssertionError, match="2 restarts after 1 kills"):
        restarts.check_launch(SETUP, folder, PLAN)


def test_a_start_that_does_not_resume_is_noticed(folder: Path) -> None:
    write_starts(folder, [(0, 0), (0, 4)])

    with pytest.raises(AssertionError, match="went on from iteration 0, though 4 was saved"):
        restarts.check_launch(SETUP, folder, PLAN)


def launch(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, limit_s: float = 20.0) -> None:
    """Launch a shell script in the place of torchrun."""
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **kwargs: popen(["sh", "-c", script], **kwargs))
    monkeypatch.setattr(restarts, "LIMIT_S", limit_s)
    restarts.launch(SETUP, folder, PLAN)


@pytest.mark.parametrize(
    ("script", "limit_s", "message"),
    [
        ("sleep 100 & exit 0", 20.0, "1 processes were left"),
        ("echo no more >&2; exit 1", 20.0, "torchrun ended with 1: no more"),
        ("sleep 100 & wait", 0.1, r"torchrun was still running after 0\.1 s"),
    ],
)
def test_a_launch_that_hangs_fails_or_leaves_a_process_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, limit_s: float, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        launch(tmp_path, monkeypatch, script, limit_s)


def test_only_a_process_of_the_folder_is_killed(tmp_path: Path) -> None:
    (tmp_path / pid_file(0, 0)).write_text(str(os.getpid()))

    restarts.kill_rank(tmp_path, 0, 0)  # this process has another folder

    assert not (tmp_path / kill_file(0)).exists()


def test_a_full_campaign_that_misses_a_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[dict[str, Any]] = [{"details": {"kills": [{"place": place}]}} for place in restarts.PLACES]
    monkeypatch.setattr(restarts, "TRIALS", 5)

    assert restarts.summary(records) == "kills: " + ", ".join(f"1 {place}" for place in restarts.PLACES)
    assert restarts.summary(records[:2]).startswith("kills: 1 start, 1 joining, 0 step")
    with pytest.raises(AssertionError, match="a place was never hit: 0 start"):
        restarts.summary(records[1:])
