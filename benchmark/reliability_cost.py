"""
What it costs that nothing is lost: per update, per save in the background, and in memory on a resume.

    python -m benchmark.reliability_cost [step] [stall] [memory] [--threads N] [--rounds N]

step    nanoGPT's CPU recipe; updates with and without the monitor and the note of this rank's position, in random order
        in one process; and a save with and without number, checksum, manifest and link, shared out over the recipe's
        250 updates between saves
stall   a model of 50 M parameters with AdamW; how long a save keeps the loop, in the background and not, in turn
memory  peak of a process that resumes, against the one that trained from scratch
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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch

import core
import train
from benchmark.throughput import CPU_RECIPE, ROOT, interval
from config.options import Options
from configurator import configure
from data.meta import write_meta

UPDATES_PER_SAVE = 250  # eval_interval of config/train_shakespeare_char.py
LARGE = [
    "--n_layer=15", "--n_head=8", "--n_embd=512", "--block_size=32", "--batch_size=1",
    "--gradient_accumulation_steps=1", "--device=cpu", "--compile=False", "--dataset=random", "--dropout=0.0",
]  # fmt: skip


def write_data(folder: Path, vocab_size: int) -> None:
    """Write data sets `shakespeare_char` and `random` of random tokens: their content does not matter here."""
    draw = np.random.default_rng(0)
    for name in ("shakespeare_char", "random"):
        (folder / "data" / name).mkdir(parents=True)
        for split in ("train", "val"):
            draw.integers(vocab_size, size=200_000).astype(np.uint16).tofile(folder / "data" / name / f"{split}.bin")
        words = {str(number): number for number in range(vocab_size)}
        itos = {number: word for word, number in words.items()}
        write_meta(folder / "data" / name / "meta.pkl", {"vocab_size": vocab_size, "itos": itos, "stoi": words})


@contextmanager
def trainer(argv: list[str], folder: Path) -> Iterator[core.Trainer]:
    """Build a run in a folder, and let nothing of it be printed."""
    os.chdir(folder)
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
        core.Preemption() as preemption,
    ):
        options = configure(Options, argv)
        with core.Runtime(**options.pick("device", "dtype", "backend", "seed", "cpu_autocast")) as run:
            built = train.build(options, run, preemption)
            built.begin()
            built.step.prefetch()
            yield built


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio_of(pairs: list[tuple[float, float]]) -> str:
    """Return the median of the ratios with its 95 % interval."""
    ratios = [ours / theirs for ours, theirs in pairs]
    low, high = interval(ratios, draws=2000)
    return f"{statistics.median(ratios):.4f}  [{low:.4f}, {high:.4f}]"


def measure_step(rounds: int) -> None:
    """Print what an update and a save cost with all that keeps them safe, and without."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, 65)
        with trainer([*CPU_RECIPE, "--out_dir=out"], folder) as run:
            for _ in range(20):
                run.update()
            programs: dict[str, Callable[[], object]] = {"guarded": run.update, "bare": run.step.execute_step}
            draw, pairs = random.Random(0), []
            for _ in range(rounds * 20):
                order = draw.sample(list(programs), 2)
                times = {program: seconds(programs[program]) for program in order}
                pairs.append((times["guarded"], times["bare"]))
            bare_step = statistics.median(bare for _, bare in pairs)
            extra_step = statistics.median(ours - bare for ours, bare in pairs)

            state = run.step.parallel.state_dict(run.raw_model, run.step.optimizer)
            saves = []
            for _ in range(rounds):
                bare = seconds(lambda: torch.save(state, folder / "plain.pt"))
                saves.append((seconds(lambda: run.save_checkpoint(link=True)), bare))
            extra_save = statistics.median(ours - bare for ours, bare in saves)
    print(f"update: {bare_step * 1e3:.2f} ms bare, {extra_step * 1e6:+.0f} us guarded; ratio {ratio_of(pairs)}")
    bare = statistics.median(bare for _, bare in saves)
    print(f"save: {bare * 1e3:.1f} ms bare torch.save, {extra_save * 1e3:+.1f} ms safe and verified")
    per_update = 1 + (extra_step + extra_save / UPDATES_PER_SAVE) / (bare_step + bare / UPDATES_PER_SAVE)
    print(f"together, with a save every {UPDATES_PER_SAVE} updates: {per_update:.4f}")


def measure_stall(rounds: int) -> None:
    """Print how long a save keeps the loop from its next update, in the background and not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, 4096)
        stalls: dict[bool, list[float]] = {False: [], True: []}
        slower: dict[bool, list[float]] = {False: [], True: []}
        sizes = set()
        for background in (False, True):
            (folder / str(background)).mkdir()
            (folder / str(background) / "data").symlink_to(folder / "data")
            argv = [*LARGE, "--out_dir=out", f"--async_save={background}"]
            with trainer(argv, folder / str(background)) as run:
                sizes.add(sum(parameter.numel() for parameter in run.raw_model.parameters()))
                for _ in range(5):
                    run.update()
                updates = statistics.median(seconds(run.update) for _ in range(10))
                for _ in range(rounds):
                    stalls[background].append(seconds(run.save_checkpoint))
                    started = time.perf_counter()
                    for _ in range(10):
                        run.update()
                    slower[background].append(time.perf_counter() - started - 10 * updates)
                run.checkpointer.join()
    print(f"{sizes} parameters, update {updates * 1e3:.0f} ms")
    for background in (False, True):
        first, *later = stalls[background]
        name = "in the background" if background else "at once"
        spread = f"{statistics.median(later):.3f} s ({min(later):.3f} to {max(later):.3f})"
        after = f"the next 10 updates {statistics.median(slower[background]):+.3f} s"
        print(f"{name}: first {first:.3f} s, later {spread}; {after}")
    print(f"first: {stalls[True][0] / stalls[False][0]:.3f}")
    print(f"later: {statistics.median(stalls[True][1:]) / statistics.median(stalls[False][1:]):.3f}")


def measure_memory(rounds: int) -> None:
    """Print the peak memory of a resumed process against that of one that trained from scratch."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, 4096)
        pairs = []
        for number in range(rounds):
            peaks = []
            for start, last in (("scratch", 10), ("resume", 20)):
                argv = [*LARGE, f"--out_dir=out{number}", f"--init_from={start}", f"--max_iters={last}",
                        "--eval_interval=10", "--eval_iters=2"]  # fmt: skip
                programs = str(ROOT / "benchmark" / "measure.py"), "report.json", str(ROOT / "train.py")
                command = [sys.executable, *programs]
                subprocess.run([*command, *argv], cwd=folder, check=True, capture_output=True)
                report = json.loads((folder / "report.json").read_text())
                peaks.append(report["peak"] - report["level"])
            pairs.append((peaks[1] / 2**20, peaks[0] / 2**20))
    scratch, resumed = statistics.median(pair[1] for pair in pairs), statistics.median(pair[0] for pair in pairs)
    print(f"peak above imports: scratch {scratch:.0f} MB, resumed {resumed:.0f} MB; ratio {ratio_of(pairs)}")


def main() -> None:
    """Measure what is named on the command line, or everything."""
    measures = {"step": (measure_step, 15), "stall": (measure_stall, 9), "memory": (measure_memory, 3)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*measures, []], help="all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, help="default: as many as make minutes")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    print(f"{chosen.threads} threads, Python {platform.python_version()}, torch {torch.__version__}")
    for name in chosen.what or measures:
        measure, rounds = measures[name]
        measure(chosen.rounds or rounds)


if __name__ == "__main__":
    main()
