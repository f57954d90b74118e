"""The good folder that every trial copies and changes, and the programs with their good command lines."""

import functools
import importlib
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.soak.campaign import in_child, stderr_tail, tiny_argv, train, write_tiny_data

TINY = tiny_argv(max_iters=3, eval_interval=2, keep_last=2, n_layer=1, save_interval=1)
STAGES = [
    {"type": "random", "max_masked_ratio": 0.5, "val_loss_stale_count": 1},
    {"type": "span", "spans_count": 2, "val_loss_stale_count": 1},
]
RUNS = {  # folder: the options that make a run of its kind
    "out": [],
    "out-mask": ["--training_type=unmasking", f"--unmasking_stages={STAGES}"],
    "out-classes": ["--training_type=token_classification"],
    "out-scorer": ["--training_type=sequence_scoring", "--unmasking_model_checkpoint=out-mask"],
}
QUEUE = Path("data", "queue")
FILLS_QUEUE = ["--once", "--batches_per_file=12", "--batch_size=4", "--block_size=16"]
READS_QUEUE = ["--dataset=queue", "--training_type=unmasking", "--data_wait_timeout_seconds=0.5", "--out_dir=new"]
TEXT = "abc def\nghi jkl\n" * 40
SAMPLE = ["--device=cpu", "--num_samples=1", "--max_new_tokens=5", "--start=ab"]
MODULES = {  # program: where its main is
    "train.py": "train",
    "sample.py": "sample",
    "prepare.py": "data.text.prepare",
    "prepare_streaming.py": "data.char_diffusion.prepare_streaming",
    **{f"tools.{name}": f"tools.{name}" for name in ("curve", "convert", "run_hash")},
    **{f"tools.{name}": f"tools.{name}" for name in ("masking_report", "objective_report")},
}


class Command(NamedTuple):
    """A program and its arguments, and what was done to its input."""

    program: str
    argv: list[str]
    changes: list[str]


def copy_base(folder: Path) -> None:
    """Copy a data set, a text and a finished run of every kind into a folder."""
    shutil.copytree(_base(), folder, dirs_exist_ok=True)


@functools.cache
def _base() -> Path:
    for program in MODULES:
        main_of(program)  # imported here, before the programs are forked, not in every trial
    with suppress(ImportError):
        importlib.import_module("matplotlib.pyplot")
    made = tempfile.TemporaryDirectory(prefix="fuzz-base-")
    _KEPT.append(made)
    folder = Path(made.name)
    write_tiny_data(folder)
    (folder / "book.txt").write_text(TEXT)
    (folder / QUEUE).mkdir()
    (folder / QUEUE / "input.txt").write_text(TEXT)
    status = in_child(lambda: main_of("prepare_streaming.py")(FILLS_QUEUE), folder)
    assert status == 0, f"the queue could not be filled: {stderr_tail(folder)}"
    for name, options in RUNS.items():
        argv = [*TINY, f"--out_dir={name}", *options]
        status = in_child(functools.partial(train, argv), folder)
        assert status == 0, f"the run of {name} ended with {status}: {stderr_tail(folder)}"
    for name in ("stdout.txt", "stderr.txt"):
        (folder / name).unlink()
    return folder


_KEPT: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def main_of(program: str) -> Callable[[Sequence[str]], Any]:
    """Return the `main` of a program; those that make data sets write below the current folder."""
    main: Callable[..., Any] = importlib.import_module(MODULES[program]).main
    places: dict[str, dict[str, Path]] = {"prepare.py": {"data": Path("data")}, "prepare_streaming.py": {"own": QUEUE}}
    return functools.partial(main, **places.get(program, {}))


def good_command(rng: random.Random, programs: Sequence[str] = tuple(MODULES)) -> Command:
    """Return a command line that works in a copy of the base folder."""
    program, run = rng.choice(programs), rng.choice([*RUNS, "out"])
    argv = {
        "train.py": lambda: _training(rng, run),
        "sample.py": lambda: [*SAMPLE, f"--out_dir={run}"],
        "prepare.py": lambda: ["book.txt", "--name", "book", "--tokenizer", rng.choice(["char", "byte"])],
        "prepare_streaming.py": lambda: [*FILLS_QUEUE, "--max_backlog_files=3"],
        "tools.curve": lambda: [run, "--file", "curves.png"],
        "tools.convert": lambda: [f"{run}/ckpt.pt", "--out", "converted"],
        "tools.run_hash": lambda: [run],
        "tools.masking_report": lambda: [*TINY, *RUNS["out-mask"], "--out", "report", "--sequences", "4"],
        "tools.objective_report": lambda: [run, "--to", "pictures"],
    }[program]()
    return Command(program, argv, [])


def _training(rng: random.Random, run: str) -> list[str]:
    """Return a command line of train.py: a new run, or one that uses a finished run."""
    resume = ["--init_from=resume", f"--out_dir={run}", "--max_iters=4"]
    return rng.choice(
        [
            [*TINY, "--out_dir=new", *RUNS[run]],
            [*TINY, "--out_dir=new", *RUNS[run], f"--init_from_checkpoint={rng.choice(['out-mask', run])}"],
            [*TINY, *READS_QUEUE],
            resume,
            [*TINY, *RUNS[run], *resume],
            [*TINY, *RUNS[run], *resume, "--init_from=auto"],
            [*TINY, *RUNS[run], *resume, "--eval_only=True"],
            [*TINY, *RUNS[run], *resume, "--ckpt_filename=ckpt-000002.pt"],
        ]
    )
