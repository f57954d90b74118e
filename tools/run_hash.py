"""
Print one hash of everything that a run has computed: runs that are equal to the bit have equal hashes.

    python -m tools.run_hash out-quickstart

The hash covers the newest good checkpoint (weights, optimizer, RNG states, counters) and the metrics logged up to it,
without times. It does not depend on the folder of the run, or on how often the run was interrupted and resumed.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core.checkpoint.format import load_checkpoint
from core.checkpoint.manager import CheckpointManager
from core.commands import argument_parser
from core.errors import exit_on_error
from core.files import path_argument
from tools.metrics import read_records

NOT_HASHED = {"config", "tokenizer", "run", "loggers"}  # parts of a checkpoint that say how the run was started
EVENTS = {"step", "eval"}  # logged events that are results of a run
TIMES = {"time_ms", "mfu", "elapsed_s", "tokens_per_s"}
NEWER = {"tokens", "mean_loss"}  # an older run with the same weights and losses has not logged them


def run_hash(out_dir: str | Path) -> str:
    """Return the hash of the newest good checkpoint in a run folder and of the metrics up to it.

    Raises CheckpointError if there is no checkpoint, DataError if the metrics cannot be read.
    """
    found = CheckpointManager(out_dir).load()
    checkpoint = load_checkpoint(found.path, check=False)  # `load` has compared the checksums
    size = checkpoint.get("loggers", {}).get("JsonlLogger", {}).get("offset", 0)
    return checkpoint_hash(checkpoint, read_metrics(Path(out_dir), size))


def checkpoint_hash(checkpoint: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    """Return the hash of a checkpoint, without the parts in NOT_HASHED, and of metrics."""
    return value_hash({key: value for key, value in checkpoint.items() if key not in NOT_HASHED}, metrics)


def read_metrics(folder: Path, size: int) -> list[dict[str, Any]]:
    """Return the updates and evaluations in the first `size` bytes of a run's metrics.jsonl, without times."""
    records = read_records(folder, size) if size else []
    return [
        {key: value for key, value in record.items() if key not in TIMES | NEWER}
        for record in records
        if record.get("event") in EVENTS
    ]


def value_hash(*values: Any) -> str:
    """Return the sha256, as hex, of values; different values, and equal values of different types, hash differently.

    The order of a dict's keys, and whether a sequence is a list or a tuple, make no difference.
    """
    digest = hashlib.sha256()
    for value in values:
        _add_value(digest, value)
    return digest.hexdigest()


def _add_value(digest: "hashlib._Hash", value: Any) -> None:
    if isinstance(value, torch.Tensor):
        _add_bytes(digest, "tensor", f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, dict):
        _add_bytes(digest, "dict", str(len(value)).encode())
        for key in sorted(value, key=lambda key: (str(key), type(key).__name__)):
            _add_value(digest, key)
            _add_value(digest, value[key])
    elif isinstance(value, list | tuple):
        _add_bytes(digest, "sequence", str(len(value)).encode())
        for item in value:
            _add_value(digest, item)
    elif isinstance(value, set | frozenset):
        _add_bytes(digest, "set", b"")
        _add_value(digest, sorted(value, key=lambda item: (str(item), type(item).__name__)))
    elif isinstance(value, bytes | bytearray):
        _add_bytes(digest, "bytes", value)
    else:  # bool, int, float, str, None, torch.dtype, ...: their repr is unambiguous
        _add_bytes(digest, type(value).__name__, repr(value).encode())


def _add_bytes(digest: "hashlib._Hash", kind: str, content: bytes | bytearray) -> None:
    digest.update(f"{kind} {len(content)}:".encode() + content)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the hash of the run folder given on the command line."""
    parser = argument_parser("tools/run_hash.py", __doc__)
    parser.add_argument("out_dir", type=path_argument, help="run folder")
    print(run_hash(parser.parse_args(argv).out_dir))


if __name__ == "__main__":
    with exit_on_error():
        main()
