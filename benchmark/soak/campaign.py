"""Shared parts of the campaigns: a tiny run, the processes it runs in, and the hash of the undisturbed run."""

import os

# before torch is imported: a forked process has no threads of its parent
os.environ["OMP_NUM_THREADS"] = "1"

import functools
import json
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
import torch._dynamo  # takes a second to load; loaded here, before the runs are forked, not in every run

import train as program
from benchmark.data_sets import write_data_set
from core.callback import Callback
from core.errors import exit_on_error
from core.trainer import Trainer
from tools.run_hash import run_hash

torch.set_num_threads(1)  # results are equal to the bit only for equal thread counts

OUT = "out"  # the run folder in the folder of a trial
STARTS = "starts.txt"
CHARS = "\nabcdefghijklmnop"
LIMIT_S = 60.0  # a run takes less than a second
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Campaign(NamedTuple):
    """Many independent trials of one guarantee.

    trials:  number of trials of the full campaign
    trial:   `trial(seed, folder)` runs one trial in an empty folder and returns details to record; it raises
             AssertionError with the reason if the guarantee does not hold
    summary: `summary(records)` returns one line about all passed trials; it raises AssertionError if the trials
             tested too little
    """

    name: str
    trials: int
    trial: Callable[[int, Path], dict[str, Any]]
    summary: Callable[[list[dict[str, Any]]], str] = lambda records: ""


# the tiny run


class Setup(NamedTuple):
    """The command line of a run, and its number of processes."""

    argv: tuple[str, ...]
    world_size: int


def write_tiny_data(folder: Path) -> None:
    """Write folder/data/tiny, a data set of 17 characters: train.bin (4000 tokens), val.bin (800), meta.pkl."""
    rng = np.random.default_rng(0)
    splits = {
        split: rng.integers(1, 4, size).cumsum() % len(CHARS)  # a pattern that a model can learn
        for split, size in (("train", 4000), ("val", 800))
    }
    write_data_set(folder / "data" / "tiny", splits, CHARS)


def tiny_argv(**changes: Any) -> list[str]:
    """Return the command line of a run on data/tiny that writes to OUT. changes: options to change or add

    The run makes 14 updates of 2 micro-batches with dropout, and evaluates in iterations 0, 4, 8 and 12.
    """
    values: dict[str, Any] = dict(
        dataset="tiny", device="cpu", compile=False, n_layer=2, n_head=2, n_embd=32, block_size=16, dropout=0.2,
        batch_size=4, gradient_accumulation_steps=2, max_iters=13, eval_interval=4, eval_iters=2, learning_rate=1e-2,
        min_lr=1e-3, warmup_iters=2, lr_decay_iters=13, out_dir=OUT,
    )  # fmt: skip
    return [f"--{name}={value}" for name, value in {**values, **changes}.items()]


def train(argv: Sequence[str], callbacks: Sequence[Any] = ()) -> None:
    """Run train.py with this command line in the current folder. To be called in a child process."""
    program.main(list(argv), callbacks)


def undisturbed_hash(argv: Sequence[str], world_size: int = 1) -> str:
    """Return the run_hash of an undisturbed run. The run is made once for every command line."""
    return _undisturbed_hash(Setup(tuple(argv), world_size))


@functools.cache
def _undisturbed_hash(setup: Setup) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_data(folder)
        run_undisturbed(folder, lambda: start_run(lambda: train(setup.argv), setup.world_size, folder))
        return run_hash(folder / OUT)


def run_undisturbed(folder: Path, begin: Callable[[], list[int]]) -> float:
    """Wait for the processes that `begin()` starts in a folder, and return the seconds they took.

    Raises AssertionError unless all of them end with status 0.
    """
    started = time.monotonic()
    statuses = wait(begin())
    seconds = time.monotonic() - started
    assert not any(statuses), f"an undisturbed run ended with {statuses}: {stderr_tail(folder)}"
    return seconds


# starts of a run


class StartRecorder(Callback):
    """Appends to starts.txt the iteration at which this start of the run begins."""

    def on_train_begin(self, trainer: Trainer) -> None:
        if trainer.runtime.is_master:
            with open(STARTS, "a") as file:
                file.write(f"{trainer.iter_num}\n")


@contextmanager
def expect_resume(folder: Path, saved: int | None = None) -> Iterator[None]:
    """Check that a run with a StartRecorder, started in this context, resumes from its newest checkpoint.

    saved: iteration of that checkpoint; by default that of the highest number in the folder
    """
    previous = len(start_iterations(folder))
    saved = saved_iteration(folder) if saved is None else saved
    yield
    if started := start_iterations(folder)[previous:]:  # empty if the process was killed before
        assert started == [saved], f"a start went on from iteration {started[0]}, though {saved} was saved"


def start_iterations(folder: Path) -> list[int]:
    """Return the iteration at which each start of the run began."""
    path = folder / STARTS
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def newest_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest with the highest number; None if there is no checkpoint yet."""
    manifests = [json.loads(path.read_text()) for path in (folder / OUT).glob("ckpt-*.json")]
    return max(manifests, key=lambda manifest: manifest["sequence"], default=None)


def saved_iteration(folder: Path) -> int:
    """Return the iteration of the checkpoint with the highest number; 0 if there is no checkpoint yet."""
    manifest = newest_manifest(folder)
    return int(manifest["iter_num"]) if manifest else 0


# processes


def in_child(work: Callable[[], None], folder: Path | None = None, limit_s: float = LIMIT_S) -> int:
    """Run `work()` in a forked process and return its exit status, or minus the signal that killed it.

    The status is as in a shell: that of a CoreGPTError, and 1 for any other exception.

    folder: current folder of the process; its output is appended to stdout.txt and stderr.txt there

    Raises AssertionError if the process takes longer than `limit_s`; the process is killed then.
    """
    return wait([start(work, folder)], limit_s)[0]


def ranks(
    work: Callable[[], None], world_size: int = 2, folder: Path | None = None, limit_s: float = LIMIT_S
) -> list[int]:
    """Run `work()` on all ranks of a process group and return their exit statuses, as `in_child` does."""
    return wait(start_ranks(work, world_size, folder), limit_s)


def start_run(work: Callable[[], None], world_size: int, folder: Path) -> list[int]:
    """Start `work()` in `world_size` processes and return their pids. A single process gets no process group."""
    return start_ranks(work, world_size, folder) if world_size > 1 else [start(work, folder)]


def start(work: Callable[[], None], folder: Path | None = None, environment: dict[str, str] | None = None) -> int:
    """Start `work()` in a forked process and return its pid. `wait` must be called once for every pid."""
    folder, environment = Path(folder or "."), environment or {}
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about forking with threads; ours hold no lock
        pid = os.fork()
    if pid == 0:
        _run_and_exit(work, folder, environment)
    return pid


def start_ranks(work: Callable[[], None], world_size: int = 2, folder: Path | None = None) -> list[int]:
    """Start `work()` on all ranks of a process group and return their pids."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        start(work, folder, {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(world_size)
    ]  # fmt: skip


def wait(pids: Sequence[int], limit_s: float = LIMIT_S, grace_s: float | None = None) -> list[int]:
    """Wait for processes and return the exit status of each, or minus the signal that killed it.

    limit_s: after this time the remaining processes are killed, and AssertionError is raised
    grace_s: after this time since a process failed, the remaining processes are killed, without an error
    """
    statuses: dict[int, int] = {}
    deadline, has_failed = time.monotonic() + limit_s, False
    try:
        while len(statuses) < len(pids) and time.monotonic() < deadline:
            for pid in [pid for pid in pids if pid not in statuses]:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    statuses[pid] = os.waitstatus_to_exitcode(status)
            if grace_s is not None and not has_failed and any(statuses.values()):
                deadline, has_failed = time.monotonic() + grace_s, True
            time.sleep(0.001)
    finally:
        late = [pid for pid in pids if pid not in statuses]
        for pid in late:
            os.kill(pid, signal.SIGKILL)
            statuses[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert has_failed or not late, f"{len(late)} of {len(pids)} processes were still running after {limit_s:g} s"
    return [statuses[pid] for pid in pids]


def stderr_tail(folder: Path, lines: int = 8) -> str:
    """Return the last lines that the processes in a folder wrote to stderr."""
    path = folder / "stderr.txt"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


def _run_and_exit(work: Callable[[], None], folder: Path, environment: dict[str, str]) -> NoReturn:
    """Run `work()` as a separate program would, and exit the process without returning to the parent's code."""
    status = 1
    try:
        os.chdir(folder)
        for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(file, number)
            os.close(file)
        sys.stdin = open(os.devnull)  # noqa: SIM115  nobody types
        sys.stdout = os.fdopen(1, "w", 1, closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, closefd=False, errors="backslashreplace")  # as Python's own
        for name in (*LAUNCHER, "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"):
            os.environ.pop(name, None)
        os.environ.update(environment)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = _status_of(work)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _status_of(work: Callable[[], None]) -> int:
    """Return the exit status of a program that runs `work()`."""
    try:
        with exit_on_error():
            work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # wait for background saves, as the interpreter does
    sys.stdout.flush()
    sys.stderr.flush()
    return status
