"""Real launches of several processes: a rank is killed, a rank never comes."""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmark.soak import restarts
from benchmark.soak.campaign import tiny_argv, write_tiny_data

ROOT = Path(__file__).resolve().parents[2]
KILLED_ONCE = 20  # seed of a trial whose rank 1 is killed in an update


def test_a_launch_with_a_killed_rank_goes_on_to_the_undisturbed_state(tmp_path: Path) -> None:
    (kill,) = restarts.trial(KILLED_ONCE, tmp_path)["kills"]

    assert (kill["place"], kill["rank"]) == ("step", 1)


def test_a_rank_that_waits_in_vain_ends_with_one_message(tmp_path: Path) -> None:
    write_tiny_data(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    environment |= {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    command = [sys.executable, str(ROOT / "train.py"), *tiny_argv(start_timeout=0.02)]
    started = time.monotonic()

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)

    assert done.returncode == 75
    assert done.stderr.splitlines() == [
        "error: rank 1: the 2 processes of this run could not form a process group within start_timeout=0.02 minutes: "
        "no connection to the store at 127.0.0.1:9 (Connection refused); start all of them again, with "
        "the same WORLD_SIZE, and a MASTER_ADDR and MASTER_PORT that every machine reaches"
    ]
    assert time.monotonic() - started < 60
    assert not (tmp_path / "out").exists()
