"""
Measure the time of a step, the time of an evaluation and the memory of a run, alone or against other training loops.

    python -m benchmark.throughput                                      # against the flat loop, benchmark/reference.py
    python -m benchmark.throughput --legacy ~/nanoGPT                   # and against nanoGPT
    python -m benchmark.throughput --solo -- config/train_gpt2.py       # this machine's tokens per second

The programs run in turn, A B C A B C ..., each in its own process, so that changes in the machine's speed affect all of
them. Every figure is a median over rounds. Ratios are taken within a round; the interval is the 95 % bootstrap interval
of their median. Without arguments after `--`, nanoGPT's CPU recipe is run.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmark.compare_legacy import ROOT, copy_legacy
from benchmark.timing import median_and_interval

CPU_RECIPE = [
    "--device=cpu", "--compile=False", "--n_layer=4", "--n_head=4", "--n_embd=128", "--block_size=64",
    "--batch_size=12", "--gradient_accumulation_steps=1", "--dropout=0.0", "--dataset=shakespeare_char",
]  # fmt: skip
WARMUP = 10  # first iterations, not counted
ITERATION = re.compile(r"^iter (\d+): .* time ([\d.]+)ms", re.MULTILINE)


@dataclass(frozen=True)
class Measurement:
    """The measurements of one run."""

    step_ms: float
    eval_ms: float
    memory_mb: float  # peak minus the level after imports


def measure(script: Path, arguments: list[str], threads: int) -> Measurement:
    """Run a program once. The evaluation time is that of iteration 0, which saves no checkpoint."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").symlink_to(Path("data").resolve())
        script = copy_legacy(script, folder)
        command = [sys.executable, str(ROOT / "benchmark" / "measure.py"), "report.json", str(script), *arguments]
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{script} failed:\n{done.stderr[-2000:]}")
        memory = json.loads((folder / "report.json").read_text())
    times = {int(iteration): float(ms) for iteration, ms in ITERATION.findall(done.stdout)}
    step = statistics.median(ms for iteration, ms in times.items() if iteration >= WARMUP)
    return Measurement(step, times[0] - step, (memory["peak"] - memory["level"]) / 2**20)


def table(rows: dict[str, list[Measurement]]) -> str:
    """Return the medians of every program, and the ratios of the first program to each of the others."""
    lines = []
    for name, runs in rows.items():
        steps = sorted(run.step_ms for run in runs)
        lines.append(
            f"{name:12} step {statistics.median(steps):8.2f} ms ({steps[0]:.2f} to {steps[-1]:.2f}), "
            f"evaluation {statistics.median(run.eval_ms for run in runs):8.1f} ms, "
            f"memory {statistics.median(run.memory_mb for run in runs):7.1f} MB"
        )
    ours, *others = rows
    for other in others:
        for what in ("step_ms", "eval_ms", "memory_mb"):
            ratios = [getattr(a, what) / getattr(b, what) for a, b in zip(rows[ours], rows[other], strict=True)]
            lines.append(f"{ours} / {other:10} {what:10} {median_and_interval(ratios)}")
    return "\n".join(lines)


def main() -> None:
    """Run the measurements of the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legacy", type=Path, help="a nanoGPT checkout")
    parser.add_argument("--solo", action="store_true", help="measure only train.py")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("--eval_iters", type=int, default=100)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads of each process")
    parser.add_argument("overrides", nargs="*", help="after --: configs and --key=value, instead of the CPU recipe")
    chosen = parser.parse_args()

    programs = {"train.py": ROOT / "train.py"}
    if not chosen.solo:
        programs["flat loop"] = ROOT / "benchmark" / "reference.py"
    if chosen.legacy:
        programs["nanoGPT"] = (chosen.legacy / "train.py").resolve()
    own = [text if text.startswith("--") else str(Path(text).resolve()) for text in chosen.overrides]
    arguments = [
        *(own or CPU_RECIPE), "--out_dir=out", "--log_interval=1", "--eval_interval=1000000",
        f"--max_iters={chosen.iters}", f"--eval_iters={chosen.eval_iters}",
    ]  # fmt: skip
    rows: dict[str, list[Measurement]] = {name: [] for name in programs}
    for _ in range(chosen.rounds):
        for name, script in programs.items():
            rows[name].append(measure(script, arguments, chosen.threads))
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{chosen.rounds} rounds of {chosen.iters} iterations, {chosen.threads} threads, {versions}")
    print(table(rows))


if __name__ == "__main__":
    main()
