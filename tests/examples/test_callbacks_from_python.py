"""The example of callbacks from Python, run as its docstring says."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_trains_and_prints_the_loss(tiny_argv: list[str], tiny_bins: Path, tmp_path: Path) -> None:
    argv = [*tiny_argv, f"--dataset={tiny_bins}", f"--out_dir={tmp_path / 'out'}", "--max_iters=3", "--eval_interval=2"]
    command = [sys.executable, "-m", "examples.callbacks_from_python", *argv]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)

    assert done.stdout.splitlines()[-1].startswith("lowest validation loss: 2.")
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    gradients = [(record["iter"], record["largest"] > 0) for record in records if record["event"] == "gradient"]
    assert gradients == [(0, False), (2, True)]
