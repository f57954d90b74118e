"""Shared fixtures: one thread, one seed, a tiny model, a tiny data set, a folder to run in."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; also for subprocesses
os.environ["VIRTUAL_ENV"] = sys.prefix  # as in an active environment: commands in messages begin with `python`

import numpy as np
import pytest
import torch

import core
from data.meta import write_meta
from model import GPT, GPTConfig

torch.set_num_threads(1)  # bitwise equal results need the same number of threads

LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
CHARS = "\nabcdefghijklmnop"


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed every test, and remove the variables of torchrun from its environment."""
    torch.manual_seed(1337)
    for name in (*LAUNCHER, *(name for name in os.environ if name.startswith("TORCHELASTIC_"))):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def without_flush_to_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip os.fsync, most of the time of a small save: tests kill processes, and the system keeps what those wrote."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def remove_log_handlers() -> Iterator[None]:
    """Remove the log handler that a Runtime adds, because it holds the stderr of one test."""
    yield
    log = logging.getLogger("coregpt")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)


@pytest.fixture
def no_nohup() -> Iterator[None]:
    """Have a closed terminal end processes, as is usual; under nohup, this one and those that it starts ignore it."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, previous)


@pytest.fixture
def tiny_model() -> GPT:
    """Return a GPT of 2 layers, 2 heads, width 32, block size 16 and vocabulary 17, without dropout and biases."""
    return GPT(GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=len(CHARS), bias=False))


@pytest.fixture
def tiny_bins(tmp_path: Path) -> Path:
    """Return tmp_path/data/tiny, a data set of 17 characters: train.bin (2000 tokens), val.bin (400), meta.pkl."""
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for split, tokens in (("train", 2000), ("val", 400)):
        steps = draw.integers(1, 4, tokens)  # a random walk through the alphabet, so that a model can learn it
        (steps.cumsum() % len(CHARS)).astype(np.uint16).tofile(folder / f"{split}.bin")
    itos = dict(enumerate(CHARS))
    stoi = {char: number for number, char in itos.items()}
    write_meta(folder / "meta.pkl", {"vocab_size": len(CHARS), "itos": itos, "stoi": stoi})
    return folder


@pytest.fixture
def run_dir(tmp_path: Path, tiny_bins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter tmp_path, which holds data/tiny, so that `train.main(tiny_argv)` runs there and writes to run_dir/out."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def run(run_dir: Path) -> Iterator[core.Runtime]:
    """Yield a runtime in a folder with data/tiny."""
    with core.Runtime(device="cpu") as run:
        yield run


@pytest.fixture
def initializer(run: core.Runtime) -> core.ModelInitializer:
    return core.ModelInitializer(GPT, GPTConfig, run.device)


@pytest.fixture
def tiny_argv() -> list[str]:
    """Return the command line of a run on data/tiny: 7 updates of 2 micro-batches with dropout, 3 evaluations."""
    values = dict(
        dataset="tiny", device="cpu", compile=False, n_layer=2, n_head=2, n_embd=32, block_size=16, dropout=0.2,
        batch_size=4, gradient_accumulation_steps=2, max_iters=6, eval_interval=3, eval_iters=2, learning_rate=1e-2,
        min_lr=1e-3, warmup_iters=2, lr_decay_iters=6,
    )  # fmt: skip
    return [f"--{name}={value}" for name, value in values.items()]
