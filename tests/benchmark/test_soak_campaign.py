"""Shared parts of the campaigns: child processes, the hash of the undisturbed run, records of trials."""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

from benchmark.soak.__main__ import main, run
from benchmark.soak.campaign import (
    Campaign,
    in_child,
    ranks,
    start_ranks,
    stderr_tail,
    tiny_argv,
    train,
    undisturbed_hash,
    wait,
    write_tiny_data,
)
from core.errors import DivergedError


def fail() -> None:
    raise DivergedError("it was too much")


def kill_rank_1() -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(30)


def test_a_child_process_has_the_exit_status_and_output_of_a_program(tmp_path: Path) -> None:
    assert in_child(lambda: print("done"), tmp_path) == 0
    assert (tmp_path / "stdout.txt").read_text() == "done\n"
    assert in_child(fail, tmp_path) == 3
    assert stderr_tail(tmp_path) == "error: it was too much"
    assert in_child(lambda: sys.exit(7), tmp_path) == 7
    assert in_child(lambda: print(1 / 0), tmp_path) == 1
    assert "ZeroDivisionError" in stderr_tail(tmp_path)
    assert in_child(lambda: os.kill(os.getpid(), signal.SIGKILL), tmp_path) == -signal.SIGKILL


def test_a_child_that_hangs_is_killed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"1 of 1 processes were still running after 0\.05 s"):
        in_child(lambda: time.sleep(30), tmp_path, limit_s=0.05)


def test_ranks_of_a_killed_rank_are_killed_after_the_grace_time(tmp_path: Path) -> None:
    assert wait(start_ranks(kill_rank_1, 2, tmp_path), grace_s=0.05) == [-signal.SIGKILL] * 2


def test_each_rank_gets_its_rank_number(tmp_path: Path) -> None:
    assert ranks(lambda: sys.exit(10 + int(os.environ["RANK"])), 2, tmp_path) == [10, 11]
    assert "RANK" not in os.environ


def test_each_command_line_has_one_hash_of_its_undisturbed_run(tmp_path: Path) -> None:
    write_tiny_data(tmp_path)
    argv = tiny_argv(max_iters=2)
    assert in_child(lambda: train(argv), tmp_path) == 0

    assert undisturbed_hash(argv) == undisturbed_hash([*argv, "--out_dir=elsewhere/../out"])
    assert undisturbed_hash(argv) != undisturbed_hash(tiny_argv(max_iters=2, seed=1))


def test_a_record_is_continued_and_a_failed_trial_keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seeds: list[int] = []

    def trial(seed: int, folder: Path) -> dict[str, int]:
        seeds.append(seed)
        (folder / "trace").touch()
        if seed == 1:
            raise AssertionError("one is too few")
        return {"twice": 2 * seed}

    out = tmp_path / "soak.jsonl"
    campaign = Campaign("doubles", 3, trial, lambda records: f"{len(records)} doubled")
    assert run(campaign, 1, 0, out)
    with open(out, "a") as file:
        file.write('{"campaign": "doub')  # an incomplete line, as a kill leaves it
    assert not run(campaign, 3, 0, out)
    assert not run(campaign, 3, 0, out)

    records = [json.loads(line) for line in out.read_text().splitlines() if line.endswith("}")]
    kept_folder = Path(records[-2]["folder"])
    assert (seeds, [record["passed"] for record in records]) == ([0, 1, 2], [True, False, True])
    assert records[0]["details"] == {"twice": 0}
    assert records[1]["why"] == "one is too few"
    assert (kept_folder / "trace").exists()
    assert capsys.readouterr().out.splitlines()[-1] == f"doubles: 2 of 3, 0 s; 2 doubled; failed: 1 ({kept_folder})"


def test_an_unknown_campaign_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["kils"])

    assert "no campaign is named kils: choose from kills" in capsys.readouterr().err
