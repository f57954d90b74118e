"""
How fast a step is, how long an evaluation takes and how much memory a run needs; alone, or against other loops.

    python -m benchmark.throughput                                      # against the flat loop, benchmark/reference.py
    python -m benchmark.throughput --legacy ~/nanoGPT                   # and against nanoGPT
    python -m benchmark.throughput --solo -- config/train_gpt2.py       # this machine's tokens per second

The programs run in turn, A B C A B C ..., each in a process of its own, so that a machine that slows down or speeds up
does so for all of them. Every figure is a median over rounds; ratios are taken round by round, and their interval is
that of the median (95 %, bootstrap). Without arguments after `--` it runs nanoGPT's CPU recipe.
"""

import argparse
import json
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
CPU_RECIPE = [
    "--device=cpu", "--compile=False", "--n_layer=4", "--n_head=4", "--n_embd=128", "--block_size=64",
    "--batch_size=12", "--gradient_accumulation_steps=1", "--dropout=0.0", "--dataset=shakespeare_char",
]  # fmt: skip
SETTLING = 10  # first iterations, not counted
ITERATION = re.compile(r"^iter (\d+): .* time ([\d.]+)ms", re.MULTILINE)


@dataclass(frozen=True)
class Measurement:
    """What one run showed."""

    step_ms: float
    eval_ms: float
    memory_mb: float  # peak above the level after imports


def measure(script: Path, arguments: list[str], threads: int) -> Measurement:
    """Run a program once. The evaluation is timed in iteration 0, which saves nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").symlink_to(Path("data").resolve())
        if not script.is_relative_to(ROOT):  # a legacy script reads its configurator from the working folder
            for source in script.parent.glob("*.py"):
                shutil.copy(source, folder)
            script = folder / script.name
        command = [sys.executable, str(ROOT / "benchmark" / "measure.py"), "report.json", str(script), *arguments]
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{script} failed:\n{done.stderr[-2000:]}")
        memory = json.loads((folder / "report.json").read_text())
    times = {int(iteration): float(ms) for iteration, ms in ITERATION.findall(done.stdout)}
    step = statistics.median(ms for iteration, ms in times.items() if iteration >= SETTLING)
    return Measurement(step, times[0] - step, (memory["peak"] - memory["level"]) / 2**20)


def interval(values: list[float], draws: int = 10_000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median."""
    generator = random.Random(0)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(draws))
    return medians[round(0.025 * draws)], medians[round(0.975 * draws) - 1]


def table(rows: dict[str, list[Measurement]]) -> str:
    """Return the medians of every program, and the ratios of the first to each of the others."""
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
            low, high = interval(ratios)
            lines.append(f"{ours} / {other:10} {what:10} {statistics.median(ratios):.4f}  [{low:.4f}, {high:.4f}]")
    return "\n".join(lines)


def main() -> None:
    """Measure as the command line asks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legacy", type=Path, help="a nanoGPT checkout")
    parser.add_argument("--solo", action="store_true", help="measure train.py alone")
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
