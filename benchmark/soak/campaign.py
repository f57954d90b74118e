"""What campaigns share: a tiny run, processes to run it in, and the hash it comes to when nothing happens to it."""

import os

os.environ["OMP_NUM_THREADS"] = (
    "1"  # before torch is imported: a forked process must not need the threads of its parent
)

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
import torch._dynamo  # what every run loads when it makes its optimizer, a second long: once, here

import train as program
from core.callback import Callback
from core.errors import exit_on_error
from core.trainer import Trainer
from data.meta import write_meta
from tools.run_hash import run_hash

torch.set_num_threads(1)  # results are the same to the bit for one thread count only

OUT = "out"  # the run folder inside a trial's folder
CHARS = "\nabcdefghijklmnop"
LIMIT_S = 60.0  # a run takes less than a second; one that takes this long hangs
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Campaign(NamedTuple):
    """Many independent trials of one promise.

    trials:  how many make the full campaign
    trial:   `trial(seed, folder)` tries once, in an empty folder, and returns what is worth recording; it raises
             AssertionError, saying why, when the promise is broken
    summary: `summary(records)` returns what to say of all trials that passed together; it may raise as well
    """

    name: str
    trials: int
    trial: Callable[[int, Path], dict[str, Any]]
    summary: Callable[[list[dict[str, Any]]], str] = lambda records: ""


# the tiny run


class Setup(NamedTuple):
    """How a trial's run is started."""

    argv: tuple[str, ...]
    world_size: int


def write_tiny_data(folder: Path) -> None:
    """Write folder/data/tiny, a data set of 17 characters: train.bin (4000 tokens), val.bin (800), meta.pkl."""
    tiny = folder / "data" / "tiny"
    tiny.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for split, tokens in (("train", 4000), ("val", 800)):
        steps = draw.integers(1, 4, tokens)  # a walk round the alphabet: there is something to learn
        (steps.cumsum() % len(CHARS)).astype(np.uint16).tofile(tiny / f"{split}.bin")
    itos = dict(enumerate(CHARS))
    stoi = {char: number for number, char in itos.items()}
    write_meta(tiny / "meta.pkl", {"vocab_size": len(CHARS), "itos": itos, "stoi": stoi})


def tiny_argv(**changes: Any) -> list[str]:
    """Return the command line of a run on data/tiny, with options changed or added; it writes to OUT.

    14 updates of 2 micro-batches with dropout, evaluations in iterations 0, 4, 8 and 12.
    """
    values: dict[str, Any] = dict(
        dataset="tiny", device="cpu", compile=False, n_layer=2, n_head=2, n_embd=32, block_size=16, dropout=0.2,
        batch_size=4, gradient_accumulation_steps=2, max_iters=13, eval_interval=4, eval_iters=2, learning_rate=1e-2,
        min_lr=1e-3, warmup_iters=2, lr_decay_iters=13, out_dir=OUT,
    )  # fmt: skip
    return [f"--{name}={value}" for name, value in {**values, **changes}.items()]


def train(argv: Sequence[str], callbacks: Sequence[Any] = ()) -> None:
    """Run train.py with this command line, in the current folder. Call it in a child."""
    program.main(list(argv), callbacks)


class Undisturbed(NamedTuple):
    """What a run comes to when nothing happens to it."""

    run_hash: str
    seconds: float  # of wall clock, from the fork to the end of the process


def undisturbed_hash(argv: Sequence[str], world_size: int = 1) -> str:
    """Return the run_hash of a run that nothing happened to; made once for every command line."""
    return undisturbed(argv, world_size).run_hash


def undisturbed(argv: Sequence[str], world_size: int = 1) -> Undisturbed:
    """Return the hash of a run that nothing happened to, and how long it took; made once for every command line."""
    return _undisturbed(tuple(argv), world_size)


@functools.cache
def _undisturbed(argv: tuple[str, ...], world_size: int) -> Undisturbed:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_data(folder)
        started = time.monotonic()
        ends = (
            ranks(lambda: train(argv), world_size, folder)
            if world_size > 1
            else [in_child(lambda: train(argv), folder)]
        )
        seconds = time.monotonic() - started
        assert not any(ends), f"an undisturbed run ended with {ends}: {last_words(folder)}"
        return Undisturbed(run_hash(folder / OUT), seconds)


# where a start begins


class Beginning(Callback):
    """Notes in began.txt at which iteration every start of the run begins."""

    def on_train_begin(self, trainer: Trainer) -> None:
        if trainer.runtime.is_master:
            with open("began.txt", "a") as file:
                file.write(f"{trainer.iter_num}\n")


@contextmanager
def goes_on(folder: Path, saved: int | None = None) -> Iterator[None]:
    """See that a run with a Beginning, when it is started inside, goes on from where it was saved.

    saved: iteration; that of the newest checkpoint there is, if it is not given
    """
    former = len(beginnings(folder))
    saved = saved_iteration(folder) if saved is None else saved
    yield
    if begun := beginnings(folder)[former:]:  # it may have ended before
        assert begun == [saved], f"a start went on from iteration {begun[0]}, though {saved} was saved"


def beginnings(folder: Path) -> list[int]:
    """Return where each start of the run has begun."""
    path = folder / "began.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def newest_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest with the highest number; None where there is none yet."""
    manifests = [json.loads(path.read_text()) for path in (folder / OUT).glob("ckpt-*.json")]
    return max(manifests, key=lambda manifest: manifest["sequence"], default=None)


def saved_iteration(folder: Path) -> int:
    """Return the iteration of the checkpoint with the highest number; 0 where there is none yet."""
    manifest = newest_manifest(folder)
    return int(manifest["iter_num"]) if manifest else 0


# processes


def in_child(work: Callable[[], None], folder: Path | None = None, limit_s: float = LIMIT_S) -> int:
    """Do `work` in a forked process and return how that ended: its exit status, or minus the signal that killed it.

    A CoreGPTError ends it with its exit status, any other exception with 1, as from a shell.

    folder: the process's current folder, and where its stdout.txt and stderr.txt are continued; None for the current
    Raises AssertionError where it takes longer than `limit_s`; it is killed then.
    """
    return wait([start(work, folder)], limit_s)[0]


def ranks(
    work: Callable[[], None], world_size: int = 2, folder: Path | None = None, limit_s: float = LIMIT_S
) -> list[int]:
    """Do `work` in as many processes, which are the ranks of one group, and return how each of them ended."""
    return wait(start_ranks(work, world_size, folder), limit_s)


def start(work: Callable[[], None], folder: Path | None = None, environment: dict[str, str] | None = None) -> int:
    """Begin to do `work` in a forked process; return its number. Every number must be given to `wait` once."""
    folder, environment = Path(folder or "."), environment or {}
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads; ours are idle and hold no lock
        pid = os.fork()
    if pid == 0:
        _be_child(work, folder, environment)
    return pid


def start_ranks(work: Callable[[], None], world_size: int = 2, folder: Path | None = None) -> list[int]:
    """Begin to do `work` in as many processes, the ranks of one group; return their numbers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        start(work, folder, {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(world_size)
    ]  # fmt: skip


def wait(pids: Sequence[int], limit_s: float = LIMIT_S, grace_s: float | None = None) -> list[int]:
    """Wait for processes, and return how each ended: its exit status, or minus the signal that killed it.

    limit_s: those that are still there by then are killed, and AssertionError is raised
    grace_s: once one has ended other than with 0, the rest have so long; then they are killed, which is how they ended
    """
    ends: dict[int, int] = {}
    deadline, forlorn = time.monotonic() + limit_s, False
    try:
        while len(ends) < len(pids) and time.monotonic() < deadline:
            for pid in [pid for pid in pids if pid not in ends]:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    ends[pid] = os.waitstatus_to_exitcode(status)
            if grace_s is not None and not forlorn and any(ends.values()):
                deadline, forlorn = time.monotonic() + grace_s, True
            time.sleep(0.001)
    finally:
        late = [pid for pid in pids if pid not in ends]
        for pid in late:
            os.kill(pid, signal.SIGKILL)
            ends[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert forlorn or not late, f"{len(late)} of {len(pids)} processes were still there after {limit_s:g} s"
    return [ends[pid] for pid in pids]


def last_words(folder: Path, lines: int = 8) -> str:
    """Return the end of what the processes in a folder wrote to stderr."""
    path = folder / "stderr.txt"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


def _be_child(work: Callable[[], None], folder: Path, environment: dict[str, str]) -> NoReturn:
    """Do `work` as a program of its own would, and end the process without a step back into the parent's code."""
    status = 1
    try:
        os.chdir(folder)
        for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(file, number)
            os.close(file)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
        for name in (*LAUNCHER, "TORCHELASTIC_RUN_ID"):
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
    """Return the exit status with which a program that does `work` ends."""
    try:
        with exit_on_error():
            work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # as an interpreter does: background saves are waited for
    sys.stdout.flush()
    sys.stderr.flush()
    return status
