"""
Compare the time of an iteration with that of another checkout of this program.

    git worktree add ~/before a45e8e9
    python -m benchmark.compare_versions ~/before --pairs 300 --threads 1

Both checkouts train nanoGPT's CPU recipe, each in its own process. They run one iteration at a time, in pairs of one
iteration of each checkout, in random order. An iteration is everything that the loop does from one update to the next:
learning rate, update, verdict, callbacks, one line on the console and in metrics.jsonl. Prints both medians, and the
median ratio of the pairs with its 95 % bootstrap interval.
"""

import argparse
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import torch

from benchmark.compare_legacy import ROOT
from benchmark.reliability_cost import write_data
from benchmark.throughput import CPU_RECIPE
from benchmark.timing import median_and_interval

WARMUP = 10  # first pairs, not counted
# trains, waits for a line on stdin before each iteration, and writes the time of the iteration to a pipe
WORKER = """
import os, sys, time
checkout, pipe, *argv = sys.argv[1:]
sys.path.insert(0, checkout)
import core, train
assert train.__file__.startswith(checkout), train.__file__

class Gate(core.Callback):
    began = None

    def on_step_begin(self, trainer):
        if self.began is not None:
            os.write(int(pipe), b"%d\\n" % (time.perf_counter_ns() - self.began))
        if not sys.stdin.readline():
            os._exit(0)
        self.began = time.perf_counter_ns()

train.main(argv, [Gate()])
"""


class Worker:
    """A process that trains with one checkout, one iteration at a time."""

    def __init__(self, checkout: Path, folder: Path, threads: int) -> None:
        theirs, ours = os.pipe()
        argv = [*CPU_RECIPE, f"--out_dir={checkout.name}", "--max_iters=1000000", "--eval_interval=1000000"]
        argv += ["--eval_iters=1", "--log_interval=1"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(checkout), str(ours), *argv],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[ours],
        )
        os.close(ours)
        self.times = os.fdopen(theirs)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.times.close()

    def iterate(self) -> float:
        """Run one iteration. Return its time in milliseconds."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.times.readline()
        if not line:
            sys.exit(f"a checkout failed:\n{self.process.communicate()[1].decode()[-2000:]}")
        return int(line) / 1e6


def main() -> None:
    """Run the measurement of the command line and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    chosen = parser.parse_args()

    rng = random.Random(0)
    pairs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name), 65)
        with (
            Worker(ROOT, Path(name), chosen.threads) as this,
            Worker(chosen.other.resolve(), Path(name), chosen.threads) as other,
        ):
            for number in range(chosen.pairs + WARMUP):
                times: dict[Worker, float] = {}
                for worker in rng.sample([this, other], 2):
                    times[worker] = worker.iterate()
                if number >= WARMUP:
                    pairs.append((times[this], times[other]))
    ratio = median_and_interval([ours / theirs for ours, theirs in pairs], draws=2000)
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(
        f"{chosen.threads} threads, Python {platform.python_version()}, torch {torch.__version__}, {len(pairs)} pairs"
    )
    print(f"this {medians[0]:.3f} ms, other {medians[1]:.3f} ms; ratio {ratio}")


if __name__ == "__main__":
    main()
