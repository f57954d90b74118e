"""A terminal that is closed while a run writes to it."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

from core import CheckpointManager

ROOT = Path(__file__).parents[2]


def test_a_run_whose_terminal_is_closed_saves_and_stops(run_dir: Path, tiny_argv: list[str], no_nohup: None) -> None:
    """Writing to such a terminal fails, too."""
    terminal, end = pty.openpty()
    argv = [*tiny_argv, "--max_iters=1000000", "--eval_interval=1000000", "--log_interval=1"]
    run = subprocess.Popen([sys.executable, ROOT / "train.py", *argv], stdout=end, stderr=end, start_new_session=True)
    os.close(end)
    shown = b""
    while b"iter 20:" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    time.sleep(0.2)  # lines are lost in the meantime
    os.killpg(run.pid, signal.SIGHUP)  # what a terminal sends to the processes that it has started

    assert run.wait(timeout=60) == 75
    manifest = CheckpointManager("out").load().manifest
    assert manifest is not None and manifest["iter_num"] > 20
