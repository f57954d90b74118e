"""
Run the core line's own train.py and ours on the same queue of batches, and compare what they end on, bit by bit.

    python -m benchmark.compare_core_line --legacy ~/core_line      # its checkout, at the commit with queues of rows

Compared exactly, without loss modifiers: all weights, all optimizer tensors, the best validation loss. The core line's
evaluations use training batches up, ours do not: its queue holds these in between, ours does not hold them. And its
validation stream goes on where ours starts again: its queue holds the validation batches once for every evaluation.
Exit status 1 where anything differs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmark.compare_legacy import ROOT, flags, same_bits, tensors
from data.meta import write_meta

BATCH, BLOCK, EVAL_ITERS, EVAL_INTERVAL, MAX_ITERS = 4, 16, 2, 5, 10
# the core line's checkpoints hold an enum of its model.py: read where that is at hand, they are written again without
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
ROTARY = {"position_encoding": "rotary"}  # learned positions it draws after all others, nanoGPT before the layers
GAPS = {**ROTARY, "attention_type": "bidirectional"}
HARD = {"dropout": 0.2, "gradient_accumulation_steps": 3}
ROWS = {  # what the queue is made for, what both programs are told beside, and what ours alone is told
    "language model": ("LM", ROTARY, {}),
    "language model, dropout and accumulation": ("LM", {**ROTARY, **HARD}, {}),
    "unmasking": ("MLM", GAPS, {"training_type": "unmasking"}),
    "unmasking, dropout and accumulation": ("MLM", {**GAPS, **HARD}, {"training_type": "unmasking"}),
}


def make_batches(kind: str, count: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return batches of inputs and targets, each (B, T): shifted by one, or masked."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        tokens = torch.randint(17, (BATCH, BLOCK + 1), generator=draw)
        if kind == "LM":
            found.append((tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()))
        else:
            text, mask = tokens[:, 1:].contiguous(), torch.rand(BATCH, BLOCK, generator=draw) < 0.4
            found.append((text.masked_fill(mask, 17), text.where(mask, -100)))
    return found


def write_queue(folder: Path, kind: str, split: str, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Write one file of rows, as the core line's producer did."""
    names = ("x", "y") if kind == "LM" else ("input_ids", "targets")
    tensors = {name: torch.cat([batch[i] for batch in batches]) for i, name in enumerate(names)}
    place = folder / "data" / "queued" / "queue" / split
    place.mkdir(parents=True)
    metadata = {"batch_size": BATCH, "num_batches": len(batches), "file_idx": 0, "split": split}
    torch.save({"tensors": tensors, "metadata": metadata}, place / f"1700000000000-000000-{len(batches)}.pt")
    fields = [{"name": name, "dtype": "int64", "shape": [BLOCK], "role": role}
              for name, role in zip(names, ("input", "target"), strict=True)]  # fmt: skip
    meta = {"vocab_size": VOCAB, "training_type": kind, "batch_schema": fields, "mask_token_id": 17,
            "pad_token_id": 18, "cls_token_id": 19, "batch_size": BATCH, "block_size": BLOCK}  # fmt: skip
    write_meta(folder / "data" / "queued" / "meta.pkl", meta)


def run(script: Path, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Run a training script in a folder and return the checkpoint it leaves."""
    shutil.copy(script.parent / "configurator.py", folder)  # the core line executes the one where it is run
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent)}
    for command in ([str(script), *flags(options)], ["-c", PLAIN]):
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
        if done.returncode:
            raise SystemExit(f"{script} failed:\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}")
    checkpoint: dict[str, Any] = torch.load(folder / "out" / "plain.pt", weights_only=True)
    return checkpoint


def compare(legacy: Path, folder: Path, kind: str, both: dict[str, Any], ours_only: dict[str, Any]) -> list[str]:
    """Return the parts that differ."""
    accumulation = both.get("gradient_accumulation_steps", 1)
    used = accumulation * MAX_ITERS + 1  # until the last evaluation; one batch is drawn ahead
    training = make_batches(kind, accumulation * (MAX_ITERS + 1) + 1, seed=0)
    validation, spent = make_batches(kind, EVAL_ITERS, seed=1), make_batches(kind, EVAL_ITERS, seed=2)
    between: list[tuple[torch.Tensor, torch.Tensor]] = []
    for number, batch in enumerate(training):
        between.append(batch)
        if number % (accumulation * EVAL_INTERVAL) == 0 and number < used:
            between += spent
    evaluations = MAX_ITERS // EVAL_INTERVAL + 1
    theirs, ours = folder / "theirs", folder / "ours"
    for place, train, val in ((theirs, between, validation * evaluations), (ours, training, validation)):
        write_queue(place, kind, "train", [*train, train[0]])
        write_queue(place, kind, "val", [*val, val[0]] if place == theirs else val)
    options = {**RUN, "gradient_accumulation_steps": 1, "dropout": 0.0, **both}
    legacy_checkpoint = run(legacy / "train.py", theirs, options)
    own_checkpoint = run(ROOT / "train.py", ours, {**options, **ours_only})
    left, right = tensors(legacy_checkpoint), tensors(own_checkpoint)
    return [
        name
        for name in sorted(left.keys() | right.keys())
        if name not in left or name not in right or not same_bits(left[name], right[name])
    ]


def main() -> int:
    """Run every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legacy", type=Path, required=True, metavar="FOLDER", help="a checkout of the core line")
    legacy = parser.parse_args().legacy.resolve()
    equal = 0
    for name, (kind, both, ours_only) in ROWS.items():
        with tempfile.TemporaryDirectory() as folder:
            found = compare(legacy, Path(folder), kind, both, ours_only)
        equal += not found
        print(f"{'differs' if found else 'equal':9}{name}{': ' + ', '.join(found[:5]) if found else ''}", flush=True)
    print(f"{equal} of {len(ROWS)} equal to the bit ({MAX_ITERS} updates)")
    return 0 if equal == len(ROWS) else 1


if __name__ == "__main__":
    sys.exit(main())
