"""
Measure the cost of reliability: time per update and per save, time that a background save blocks, memory of a resume.

    python -m benchmark.reliability_cost [step] [stall] [memory] [--threads N] [--rounds N]

step    nanoGPT's CPU recipe: time of an update with and without the stability monitor and the record of this rank's
        position, in random order in one process; and time of a checkpoint (numbered, verified, with manifest and link)
        and of a bare torch.save, divided by the recipe's 250 updates between saves
stall   a model of 50 M parameters with AdamW: time for which a save blocks the loop, in the background and not
memory  peak memory of a process that resumes, and of a process that trains from scratch
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import core
import train
from benchmark.compare_legacy import ROOT
from benchmark.data_sets import write_data_set
from benchmark.throughput import CPU_RECIPE
from benchmark.timing import median_and_interval, seconds
from config.options import Options
from configurator import configure

UPDATES_PER_SAVE = 250  # eval_interval of config/train_shakespeare_char.py
LARGE = [
    "--n_layer=15", "--n_head=8", "--n_embd=512", "--block_size=32", "--batch_size=1",
    "--gradient_accumulation_steps=1", "--device=cpu", "--compile=False", "--dataset=random", "--dropout=0.0",
]  # fmt: skip


def write_data(folder: Path, vocab_size: int) -> None:
    """Write the data sets `shakespeare_char` and `random`, both of random tokens."""
    draw = np.random.default_rng(0)
    for name in ("shakespeare_char", "random"):
        splits = {split: draw.integers(vocab_size, size=200_000) for split in ("train", "val")}
        write_data_set(folder / "data" / name, splits, [str(number) for number in range(vocab_size)])


@contextmanager
def trainer(argv: list[str], folder: Path) -> Iterator[core.Trainer]:
    """Build a trainer in a folder and begin its run, without printing."""
    os.chdir(folder)
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
        core.Preemption() as preemption,
    ):
        options = configure(Options, argv)
        with core.Runtime(**options.pick("device", "dtype", "backend", "seed", "cpu_autocast")) as runtime:
            built = train.build(options, runtime, preemption)
            built.begin()
            built.step.prefetch()
            yield built


class Pair(NamedTuple):
    """The same measurement of our program and of a program to compare it with."""

    ours: float
    other: float


def ratio(pairs: list[Pair]) -> str:
    """Return the median ratio of the pairs with its 95 % interval, as text."""
    return median_and_interval([pair.ours / pair.other for pair in pairs], draws=2000)


def median_other(pairs: list[Pair]) -> float:
    """Return the median measurement of the program to compare with."""
    return statistics.median(pair.other for pair in pairs)


def median_difference(pairs: list[Pair]) -> float:
    """Return the median of ours minus other."""
    return statistics.median(pair.ours - pair.other for pair in pairs)


def measure_step(rounds: int) -> None:
    """Print the time of updates and saves, each compared with the bare operation."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, 65)
        with trainer([*CPU_RECIPE, "--out_dir=out"], folder) as run:
            for _ in range(20):
                run.update()
            updates, draw = [], random.Random(0)
            programs: dict[str, Callable[[], object]] = {"guarded": run.update, "bare": run.step.execute_step}
            for _ in range(rounds * 20):
                times = {program: seconds(programs[program]) for program in draw.sample(list(programs), 2)}
                updates.append(Pair(times["guarded"], times["bare"]))

            saves = []
            state = run.step.parallel.state_dict(run.raw_model, run.step.optimizer)
            for _ in range(rounds):
                bare = seconds(lambda: torch.save(state, folder / "plain.pt"))
                saves.append(Pair(seconds(lambda: run.save_checkpoint(link=True)), bare))
    update, extra_update = median_other(updates), median_difference(updates)
    print(f"update: {update * 1e3:.2f} ms bare, {extra_update * 1e6:+.0f} us guarded; ratio {ratio(updates)}")
    save, extra_save = median_other(saves), median_difference(saves)
    print(f"save: {save * 1e3:.1f} ms bare torch.save, {extra_save * 1e3:+.1f} ms safe and verified")
    per_update = 1 + (extra_update + extra_save / UPDATES_PER_SAVE) / (update + save / UPDATES_PER_SAVE)
    print(f"together, with a save every {UPDATES_PER_SAVE} updates: {per_update:.4f}")


class Stalls(NamedTuple):
    """Times in seconds of several saves in one run.

    blocked: for which each save blocked the loop
    slower:  by which the 10 updates after each save were slower than 10 other updates
    """

    blocked: list[float]
    slower: list[float]


def measure_stall(rounds: int) -> None:
    """Print the time for which a save blocks the loop, in the background and not."""
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name), 4096)
        foreground, background = (stalls(Path(name), is_async, rounds) for is_async in (False, True))
    for kind, found in (("at once", foreground), ("in the background", background)):
        first, *later = found.blocked
        spread = f"{statistics.median(later):.3f} s ({min(later):.3f} to {max(later):.3f})"
        after = f"the next 10 updates {statistics.median(found.slower):+.3f} s"
        print(f"{kind}: first {first:.3f} s, later {spread}; {after}")
    print(f"first: {background.blocked[0] / foreground.blocked[0]:.3f}")
    print(f"later: {statistics.median(background.blocked[1:]) / statistics.median(foreground.blocked[1:]):.3f}")


def stalls(folder: Path, is_async: bool, rounds: int) -> Stalls:
    """Return the times of saves of a large model, in the background if `is_async`; print the size of the model."""
    run_folder = folder / str(is_async)
    run_folder.mkdir()
    (run_folder / "data").symlink_to(folder / "data")
    found = Stalls([], [])
    with trainer([*LARGE, "--out_dir=out", f"--async_save={is_async}"], run_folder) as run:

        def ten_updates() -> None:
            for _ in range(10):
                run.update()

        for _ in range(5):
            run.update()
        size = sum(parameter.numel() for parameter in run.raw_model.parameters())
        update = statistics.median(seconds(run.update) for _ in range(10))
        for _ in range(rounds):
            found.blocked.append(seconds(run.save_checkpoint))
            found.slower.append(seconds(ten_updates) - 10 * update)
        run.checkpointer.join()
    print(f"{size} parameters, update {update * 1e3:.0f} ms")
    return found


def measure_memory(rounds: int) -> None:
    """Print the peak memory of a process that resumes and of a process that trains from scratch."""
    pairs = []
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name), 4096)
        for number in range(rounds):
            out_dir = f"--out_dir=out{number}"
            scratch = peak_mb(Path(name), [out_dir, "--init_from=scratch", "--max_iters=10"])
            pairs.append(Pair(peak_mb(Path(name), [out_dir, "--init_from=resume", "--max_iters=20"]), scratch))
    resumed = statistics.median(pair.ours for pair in pairs)
    print(f"peak above imports: scratch {median_other(pairs):.0f} MB, resumed {resumed:.0f} MB; ratio {ratio(pairs)}")


def peak_mb(folder: Path, arguments: list[str]) -> float:
    """Run train.py on the large model in a new process. Return its peak memory above the level after imports, in MB."""
    command = [sys.executable, str(ROOT / "benchmark" / "measure.py"), "report.json", str(ROOT / "train.py")]
    options = [*LARGE, "--eval_interval=10", "--eval_iters=2", *arguments]
    subprocess.run([*command, *options], cwd=folder, check=True, capture_output=True)
    report: dict[str, float] = json.loads((folder / "report.json").read_text())
    return (report["peak"] - report["level"]) / 2**20


def main() -> None:
    """Run the measurements named on the command line; by default all."""
    measures = {"step": (measure_step, 15), "stall": (measure_stall, 9), "memory": (measure_memory, 3)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*measures, []], help="default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, help="repetitions; the default takes a few minutes")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    print(f"{chosen.threads} threads, Python {platform.python_version()}, torch {torch.__version__}")
    for name in chosen.what or measures:
        measure, rounds = measures[name]
        measure(chosen.rounds or rounds)


if __name__ == "__main__":
    main()
