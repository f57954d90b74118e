"""
Run a legacy training script and train.py on the same data, each in its own process, and compare them bit by bit.

    python -m benchmark.compare_legacy                              # against the flat loop, benchmark/reference.py
    python -m benchmark.compare_legacy --legacy ~/nanoGPT -- config/quickstart.py --batch_size=4
    python -m benchmark.compare_legacy --all [--legacy ~/nanoGPT]   # every combination of the table below

Compared exactly: the console output except times and mfu, every learning rate, every wandb record except its mfu; and
in every checkpoint, and in out/ckpt.pt at the end, all weights, all optimizer tensors, the best validation loss and the
model_args. When training ends, train.py saves one checkpoint more than the legacy script: the comparison requires this
checkpoint, and no other. Exit status 1 if anything differs; the first differences are printed.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.data_sets import write_data_set
from core import handle_state_dict_prefixes

ROOT = Path(__file__).resolve().parent.parent
TINY = {  # a run of a few seconds
    "dataset": "tiny", "device": "cpu", "compile": False, "dtype": "float32",
    "n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "batch_size": 4,
    "gradient_accumulation_steps": 1, "eval_iters": 2, "log_interval": 1, "warmup_iters": 3, "lr_decay_iters": 9,
    "learning_rate": 1e-2, "min_lr": 1e-3, "wandb_log": True,
}  # fmt: skip
Launch = Callable[[Path, Path, list[str], int], str]  # (folder, script, arguments, processes) -> stdout
GPT2_RUN = {"init_from": "gpt2", "dataset": "words", "batch_size": 1, "block_size": 16}


@dataclass(frozen=True)
class Combination:
    """One row of the table.

    options: in addition to TINY's
    resume:  the legacy script writes a checkpoint first, and both programs resume from copies of it
    """

    name: str
    options: dict[str, Any]
    resume: bool = False
    processes: int = 1


def combinations() -> list[Combination]:
    """Return the table that `--all` runs."""
    scratch: list[tuple[str, dict[str, Any]]] = [
        ("plain", {}),
        ("accumulation", {"gradient_accumulation_steps": 4}),
        ("dropout", {"dropout": 0.2}),
        ("dropout-accumulation", {"dropout": 0.2, "gradient_accumulation_steps": 4}),
        ("no-clip", {"grad_clip": 0.0}),
        ("tight-clip", {"grad_clip": 0.05}),
        ("no-decay-lr", {"decay_lr": False}),
        ("no-weight-decay", {"weight_decay": 0.0}),
        ("bias", {"bias": True}),
        ("bias-dropout", {"bias": True, "dropout": 0.2}),
        ("best-only", {"always_save_checkpoint": False}),
        ("best-only-dropout", {"always_save_checkpoint": False, "dropout": 0.2, "gradient_accumulation_steps": 4}),
        ("betas", {"beta1": 0.8, "beta2": 0.99}),
        ("gpt2-vocabulary", {"dataset": "words"}),
        ("sparse-log", {"log_interval": 3}),
        ("compiled", {"compile": True}),
    ]
    resumed = ["plain", "accumulation", "dropout", "no-clip", "no-decay-lr", "bias-dropout", "best-only"]
    table = [Combination(name, options) for name, options in scratch]
    table += [Combination(f"resume-{name}", options, resume=True) for name, options in scratch if name in resumed]
    two = {"gradient_accumulation_steps": 4}
    table += [
        Combination("gpt2", GPT2_RUN),
        Combination("gpt2-dropout", {**GPT2_RUN, "dropout": 0.2, "gradient_accumulation_steps": 4}),
        Combination("two-ranks", two, processes=2),
        Combination("two-ranks-dropout", {**two, "dropout": 0.2, "bias": True}, processes=2),
        Combination("two-ranks-no-clip", {**two, "grad_clip": 0.0}, processes=2),
        Combination("two-ranks-resume", two, resume=True, processes=2),
    ]
    return table


@dataclass(frozen=True)
class Processes:
    """Launches a script in new processes."""

    threads: int = 1

    def __call__(self, folder: Path, script: Path, arguments: list[str], processes: int) -> str:
        """Run `record.py folder/kept script arguments` in `folder`. Return its stdout; RuntimeError if it fails."""
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [*launcher, str(ROOT / "benchmark" / "record.py"), str(folder / "kept"), str(script), *arguments]
        quiet = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
        env = {**os.environ, **quiet, "OMP_NUM_THREADS": str(self.threads)}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{script} failed ({done.returncode}):\n{done.stderr[-2000:]}")
        return done.stdout


class Side:
    """One of the two programs, its working folder, and the output of its last run."""

    def __init__(self, script: Path, folder: Path, launch: Launch) -> None:
        self.script = script
        self.folder = folder
        self.launch = launch
        self.output = ""

    @classmethod
    def in_new_folder(cls, script: Path, folder: Path, data: Path, launch: Launch) -> "Side":
        """Make the folder, with links to the data, and return a side that runs there."""
        folder.mkdir()
        (folder / "data").symlink_to(data)
        for pretrained in data.glob("gpt2*"):
            (folder / pretrained.name).symlink_to(pretrained)
        return cls(copy_legacy(script, folder), folder, launch)

    def run(self, arguments: list[str], processes: int = 1) -> None:
        """Run the program to its end. Every checkpoint it writes is kept in folder/kept."""
        shutil.rmtree(self.folder / "kept", ignore_errors=True)
        (self.folder / "kept").mkdir()
        self.output = self.launch(self.folder, self.script, arguments, processes)

    def console(self) -> list[str]:
        """Return the lines of stdout, without times and mfu, and without the line about our own flag `resume_rng`."""
        text = re.sub(r"(time|mfu) -?[\d.]+(ms|%)", r"\1", self.output)
        return [line for line in text.splitlines() if not line.startswith("Overriding: resume_rng")]

    def records(self, name: str) -> list[Any]:
        """Return what record.py wrote to <name>.json: the learning rates (`rates`), or the records sent to `wandb`."""
        records: list[Any] = json.loads((self.folder / "kept" / f"{name}.json").read_text())
        return [{**r, "mfu": None} if isinstance(r, dict) else r for r in records]

    def checkpoints(self) -> dict[int, dict[str, Any]]:
        """Return all checkpoints that the run wrote, by iteration."""
        paths = sorted((self.folder / "kept").glob("*.pt"), key=lambda path: int(path.stem))
        return {int(path.stem): load(path) for path in paths}

    def final_checkpoint(self) -> dict[str, Any] | None:
        """Return out/ckpt.pt, which nanoGPT's scripts read; None if there is none."""
        path = self.folder / "out" / "ckpt.pt"
        return load(path) if path.exists() else None


def copy_legacy(script: Path, folder: Path) -> Path:
    """Return the path at which to run a script in `folder`: a legacy script's copy there, or our script where it is.

    A legacy script reads configurator.py from its working folder, so all its files are copied.
    """
    if script.is_relative_to(ROOT):
        return script
    for source in script.parent.glob("*.py"):
        shutil.copy(source, folder)
    return folder / script.name


def load(path: Path) -> dict[str, Any]:
    """Return a checkpoint in CPU memory."""
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def same_bits(left: Any, right: Any) -> bool:
    """Return whether two tensors or numbers are equal in every bit."""
    left, right = torch.as_tensor(left), torch.as_tensor(right)
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    raw = [value.contiguous().reshape(-1).view(torch.uint8) for value in (left, right)]
    return torch.equal(*raw)


def tensors(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return all tensors of a checkpoint by name; wrapper prefixes are removed from the names."""
    found = {f"model.{name}": value for name, value in handle_state_dict_prefixes(checkpoint["model"]).items()}
    found["best_val_loss"] = checkpoint["best_val_loss"]
    for index, state in checkpoint["optimizer"]["state"].items():
        found |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    return found


def differences(legacy: Side, ours: Side, processes: int = 1, final: int | None = None) -> list[str]:
    """Return everything in which the two runs differ; an empty list if they are equal to the bit.

    final: iteration of the checkpoint that only our program writes, when training ends; None if it must not write one
    """
    found = console_differences(legacy.console(), ours.console(), processes)
    for what, name in (("learning rates", "rates"), ("wandb records", "wandb")):
        found += first_difference(what, legacy.records(name), ours.records(name))
    theirs, own = legacy.checkpoints(), ours.checkpoints()
    if list(own) != (expected := [*theirs, *([] if final is None else [final])]):
        found.append(f"checkpoints at {expected} != {list(own)}")
    for iter_num in sorted(theirs.keys() & own.keys()):
        found += [f"iteration {iter_num}: {name}" for name in different_parts(theirs[iter_num], own[iter_num])]
    their_last, own_last = legacy.final_checkpoint(), ours.final_checkpoint()
    if their_last and own_last:
        found += [f"out/ckpt.pt: {name}" for name in different_parts(their_last, own_last)]
    if not (theirs and their_last and own_last):
        found.append("no checkpoint was written: nothing to compare")
    return found


def console_differences(legacy: list[str], ours: list[str], processes: int) -> list[str]:
    """Return the first line in which two outputs differ, in a list; of several processes only losses are compared."""
    if processes > 1:  # the ranks' start-up lines come in any order
        legacy, ours = ([line for line in lines if re.match(r"(step|iter) \d", line)] for lines in (legacy, ours))
    return first_difference("console", legacy, ours)


def first_difference(what: str, legacy: list[Any], ours: list[Any]) -> list[str]:
    """Return a line about the first entry in which two lists differ, in a list; an empty list if they are equal."""
    if legacy == ours:
        return []
    pairs = zip(legacy, ours, strict=False)
    entries = f"{len(legacy)} != {len(ours)} entries"
    return [f"{what}: {next((f'{left!r} != {right!r}' for left, right in pairs if left != right), entries)}"]


def different_tensors(legacy: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Return the names of the tensors that differ between two checkpoints, or that only one of them has."""
    left, right = tensors(legacy), tensors(ours)
    names = sorted(left.keys() | right.keys())
    return [name for name in names if name not in left or name not in right or not same_bits(left[name], right[name])]


def different_parts(legacy: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Return the names of all parts in which two checkpoints differ."""
    wrong = different_tensors(legacy, ours)
    wrong += [key for key in ("model_args", "iter_num") if legacy[key] != ours[key]]
    if legacy["optimizer"]["param_groups"] != ours["optimizer"]["param_groups"]:
        wrong.append("optimizer groups")
    return wrong


def make_data(folder: Path, pretrained: Mapping[str, dict[str, int]]) -> Path:
    """Make the data sets `tiny` (vocabulary of 65) and `words` (no meta.pkl), and GPT-2 models of random weights.

    pretrained: folder name of each model, and its shape as arguments of Hugging Face's GPT2Config
    """
    generator = np.random.default_rng(0)
    for name, vocab_size, vocabulary in (("tiny", 65, 65), ("words", 50257, None)):
        splits = {
            split: generator.integers(0, 3, size).cumsum() % vocab_size  # a pattern that a model can learn
            for split, size in (("train", 20_000), ("val", 4_000))
        }
        write_data_set(folder / name, splits, vocabulary)
    for name, shape in pretrained.items():
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **shape)).save_pretrained(folder / name)
    return folder


def flags(options: dict[str, Any]) -> list[str]:
    """Return options as command-line arguments."""
    return [f"--{name}={value}" for name, value in options.items()]


def compare(legacy: Side, ours: Side, arguments: list[str], iters: int, *, resume: bool, processes: int) -> list[str]:
    """Run both sides with the same arguments and return their differences."""
    arguments = [*arguments, f"--eval_interval={max(1, iters // 3)}", "--out_dir=out", f"--max_iters={iters}"]
    if resume:
        legacy.run([*arguments, f"--max_iters={iters // 2}"], processes)
        shutil.copytree(legacy.folder / "out", ours.folder / "out", dirs_exist_ok=True)
        arguments.append("--init_from=resume")
    legacy.run(arguments, processes)
    ours.run([*arguments, "--resume_rng=reseed"], processes)
    return differences(legacy, ours, processes, final=iters + 1)


def run_combination(row: Combination, script: Path, data: Path, iters: int, launch: Launch) -> list[str]:
    """Run one row of the table and return the differences."""
    with tempfile.TemporaryDirectory() as folder:
        legacy = Side.in_new_folder(script, Path(folder) / "legacy", data, launch)
        ours = Side.in_new_folder(ROOT / "train.py", Path(folder) / "ours", data, launch)
        arguments = flags({**TINY, **row.options})
        return compare(legacy, ours, arguments, iters, resume=row.resume, processes=row.processes)


def main() -> int:
    """Run the comparisons of the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legacy", type=Path, default=ROOT / "benchmark" / "reference.py", help="checkout or script")
    parser.add_argument("--iters", type=int, default=9, help="iterations; checkpoints at each third")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--all", action="store_true", help="run all rows of the table")
    parser.add_argument("--only", default="", help="with --all: rows whose name contains this")
    parser.add_argument("overrides", nargs="*", help="after --: config files and --key=value for both programs")
    chosen = parser.parse_args()
    script = (chosen.legacy / "train.py" if chosen.legacy.is_dir() else chosen.legacy).resolve()
    is_reference = script.parent == ROOT / "benchmark"

    rows = [row for row in combinations() if chosen.only in row.name and (row.processes == 1 or is_reference)]
    if not chosen.all:
        rows = [Combination("as given", {})]
    failed, launch = 0, Processes(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        gpt2 = any(row.options.get("init_from") == "gpt2" for row in rows)
        data = make_data(Path(folder), {"gpt2": {}} if gpt2 else {})
        for row in rows:
            if chosen.overrides:
                found = run_own(chosen.overrides, script, chosen.iters, launch)
            else:
                found = run_combination(row, script, data, chosen.iters, launch)
            print(f"{row.name:24} {'equal' if not found else 'DIFFERENT: ' + '; '.join(found[:3])}", flush=True)
            failed += bool(found)
    print(f"{len(rows) - failed} of {len(rows)} equal to the bit ({script}, {chosen.iters} iterations)")
    return 1 if failed else 0


def run_own(overrides: list[str], script: Path, iters: int, launch: Launch) -> list[str]:
    """Compare both programs with the user's configs and flags, on the `data` folder of the current folder."""
    arguments = [text if text.startswith("--") else str(Path(text).resolve()) for text in overrides]
    with tempfile.TemporaryDirectory() as folder:
        legacy = Side.in_new_folder(script, Path(folder) / "legacy", Path("data").resolve(), launch)
        ours = Side.in_new_folder(ROOT / "train.py", Path(folder) / "ours", Path("data").resolve(), launch)
        return compare(legacy, ours, arguments, iters, resume=False, processes=1)


if __name__ == "__main__":
    sys.exit(main())
