"""
Run the core line's train.py and ours on the same queue of batches, and compare the final checkpoints bit by bit.

    python -m benchmark.compare_core_line --legacy ~/core_line      # a checkout at the commit with queues of rows

Compared exactly, without loss modifiers: all weights, all optimizer tensors, the best validation loss. The two programs
get different queues, because the core line's evaluations consume training batches, and each reads new validation
batches; our evaluations consume no training batches and all read the same validation batches. So the core line's queue
holds additional training batches where it evaluates, and the validation batches once per evaluation. Exit status 1 if
anything differs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmark.compare_legacy import ROOT, different_tensors, flags
from data.meta import write_meta

BATCH, BLOCK, EVAL_ITERS, EVAL_INTERVAL, MAX_ITERS = 4, 16, 2, 5, 10
# A core line checkpoint holds an enum of its model.py. This program, run where that file can be imported, saves the
# tensors again without the enum.
PLAIN = """import torch
found = torch.load("out/ckpt.pt", weights_only=False)
torch.save({name: found[name] for name in ("model", "optimizer", "best_val_loss")}, "out/plain.pt")"""
VOCAB = 20  # 17 characters, mask, padding, CLS
RUN = {
    "device": "cpu", "compile": False, "dtype": "float32", "n_layer": 2, "n_head": 2, "n_embd": 32,
    "block_size": BLOCK, "batch_size": BATCH, "eval_iters": EVAL_ITERS, "eval_interval": EVAL_INTERVAL,
    "max_iters": MAX_ITERS, "log_interval": 1, "warmup_iters": 3, "lr_decay_iters": 9, "learning_rate": 1e-2,
    "min_lr": 1e-3, "weight_decay": 0.1, "beta2": 0.95, "grad_clip": 1.0, "bias": False, "dataset": "queued",
    "out_dir": "out", "always_save_checkpoint": True,
}  # fmt: skip
# the core line initialises learned positions after all other weights, nanoGPT before the layers
ROTARY: dict[str, Any] = {"position_encoding": "rotary"}
BIDIRECTIONAL = {**ROTARY, "attention_type": "bidirectional"}
HARD = {"dropout": 0.2, "gradient_accumulation_steps": 3}
UNMASKING = {"training_type": "unmasking"}
Batches = list[tuple[torch.Tensor, torch.Tensor]]  # inputs and targets, each (B, T)


class Row(NamedTuple):
    """One row of the table.

    kind:      training type of the queue, in the core line's words
    both:      options of both programs
    ours_only: options that only our program needs
    """

    kind: str
    both: dict[str, Any]
    ours_only: dict[str, Any]


ROWS = {
    "language model": Row("LM", ROTARY, {}),
    "language model, dropout and accumulation": Row("LM", {**ROTARY, **HARD}, {}),
    "unmasking": Row("MLM", BIDIRECTIONAL, UNMASKING),
    "unmasking, dropout and accumulation": Row("MLM", {**BIDIRECTIONAL, **HARD}, UNMASKING),
}


def make_batches(kind: str, count: int, seed: int) -> Batches:
    """Return random batches; the targets are the next tokens (LM), or the masked tokens and -100 elsewhere (MLM)."""
    draw = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        tokens = torch.randint(17, (BATCH, BLOCK + 1), generator=draw)
        if kind == "LM":
            batches.append((tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()))
        else:
            text, mask = tokens[:, 1:].contiguous(), torch.rand(BATCH, BLOCK, generator=draw) < 0.4
            batches.append((text.masked_fill(mask, 17), text.where(mask, -100)))
    return batches


def write_queue(folder: Path, kind: str, split: str, batches: Batches) -> None:
    """Write one queue file of rows in the core line's format, and meta.pkl."""
    names = ("x", "y") if kind == "LM" else ("input_ids", "targets")
    tensors = {name: torch.cat([batch[i] for batch in batches]) for i, name in enumerate(names)}
    queue = folder / "data" / "queued" / "queue" / split
    queue.mkdir(parents=True)
    metadata = {"batch_size": BATCH, "num_batches": len(batches), "file_idx": 0, "split": split}
    torch.save({"tensors": tensors, "metadata": metadata}, queue / f"1700000000000-000000-{len(batches)}.pt")
    fields = [{"name": name, "dtype": "int64", "shape": [BLOCK], "role": role}
              for name, role in zip(names, ("input", "target"), strict=True)]  # fmt: skip
    meta = {"vocab_size": VOCAB, "training_type": kind, "batch_schema": fields, "mask_token_id": 17,
            "pad_token_id": 18, "cls_token_id": 19, "batch_size": BATCH, "block_size": BLOCK}  # fmt: skip
    write_meta(folder / "data" / "queued" / "meta.pkl", meta)


def run(script: Path, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Run a training script in a folder and return the model, optimizer and best_val_loss of its checkpoint."""
    shutil.copy(script.parent / "configurator.py", folder)  # the core line executes the one in its working folder
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent)}
    for command in ([str(script), *flags(options)], ["-c", PLAIN]):
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        if done.returncode:
            raise SystemExit(f"{script} failed:\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}")
    checkpoint: dict[str, Any] = torch.load(folder / "out" / "plain.pt", weights_only=True)
    return checkpoint


def write_queues(row: Row, theirs: Path, ours: Path) -> None:
    """Write queues from which both programs draw the same batches."""
    accumulation = row.both.get("gradient_accumulation_steps", 1)
    used = accumulation * MAX_ITERS + 1  # until the last evaluation; one batch is drawn ahead
    training = make_batches(row.kind, accumulation * (MAX_ITERS + 1) + 1, seed=0)
    validation, consumed = (make_batches(row.kind, EVAL_ITERS, seed) for seed in (1, 2))
    their_training: Batches = []
    for number, batch in enumerate(training):
        their_training.append(batch)
        if number % (accumulation * EVAL_INTERVAL) == 0 and number < used:
            their_training += consumed  # by the evaluation here
    their_validation = validation * (MAX_ITERS // EVAL_INTERVAL + 1)
    write_queue(theirs, row.kind, "train", [*their_training, their_training[0]])  # with a spare batch at the end
    write_queue(theirs, row.kind, "val", [*their_validation, their_validation[0]])
    write_queue(ours, row.kind, "train", [*training, training[0]])
    write_queue(ours, row.kind, "val", validation)


def compare(legacy: Path, folder: Path, row: Row) -> list[str]:
    """Run both programs and return the names of the tensors that differ."""
    theirs, ours = folder / "theirs", folder / "ours"
    write_queues(row, theirs, ours)
    options = {**RUN, "gradient_accumulation_steps": 1, "dropout": 0.0, **row.both}
    legacy_checkpoint = run(legacy / "train.py", theirs, options)
    own_checkpoint = run(ROOT / "train.py", ours, {**options, **row.ours_only})
    return different_tensors(legacy_checkpoint, own_checkpoint)


def main() -> int:
    """Run every row, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legacy", type=Path, required=True, metavar="FOLDER", help="a checkout of the core line")
    legacy = parser.parse_args().legacy.resolve()
    equal = 0
    for name, row in ROWS.items():
        with tempfile.TemporaryDirectory() as folder:
            found = compare(legacy, Path(folder), row)
        equal += not found
        print(f"{'differs' if found else 'equal':9}{name}{': ' + ', '.join(found[:5]) if found else ''}", flush=True)
    print(f"{equal} of {len(ROWS)} equal to the bit ({MAX_ITERS} updates)")
    return 0 if equal == len(ROWS) else 1


if __name__ == "__main__":
    sys.exit(main())
