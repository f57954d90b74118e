"""
Print one hash over all that a run has come to: equal hashes, equal runs, to the last bit.

    python -m tools.run_hash out-quickstart

Taken from the newest good checkpoint: weights, optimizer, random states, counters, and the logged metrics up to it,
times left out. Where the run was kept, and how often it was interrupted and resumed, does not show.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core.checkpoint.format import load_checkpoint
from core.checkpoint.manager import CheckpointManager
from core.errors import DataError, exit_on_error

PLACE = {"config", "run", "loggers"}  # where and how a run was started, not what it came to
MEASURED = {"step", "eval"}  # events that are part of a run's result
TIMES = {"time_ms", "mfu"}


def run_hash(out_dir: str | Path) -> str:
    """Return the sha256, as hex, of the newest good checkpoint in a run folder and the metrics up to it.

    Raises CheckpointError where there is none, DataError where the metrics cannot be read.
    """
    found = CheckpointManager(out_dir).load()
    checkpoint = load_checkpoint(found.path, check=False)  # `load` has done so
    written = checkpoint.get("loggers", {}).get("JsonlLogger", {}).get("offset", 0)
    digest = hashlib.sha256()
    update(digest, {key: value for key, value in checkpoint.items() if key not in PLACE})
    update(digest, read_metrics(Path(out_dir, "metrics.jsonl"), written))
    return digest.hexdigest()


def read_metrics(path: Path, size: int) -> list[dict[str, Any]]:
    """Return the updates and evaluations in the first `size` bytes of a file of JSON lines, without their times."""
    if not size:
        return []
    try:
        with open(path, "rb") as file:
            records = [json.loads(line) for line in file.read(size).splitlines()]
    except OSError as error:
        raise DataError(f"no metrics at {path} ({error.strerror}), which the checkpoint says there are") from None
    except ValueError as error:
        raise DataError(f"{path} is not a file of JSON lines ({error})") from None
    return [
        {key: value for key, value in record.items() if key not in TIMES}
        for record in records
        if isinstance(record, dict) and record.get("event") in MEASURED
    ]


def update(digest: Any, value: Any) -> None:
    """Add a value to a hash, so that different values, or values of different types, never look alike.

    The order of a dict's keys does not count; neither does whether a sequence is a list or a tuple.
    """
    if isinstance(value, torch.Tensor):
        _add(digest, "tensor", f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        _add(digest, "dict", str(len(value)).encode())
        for key in sorted(value, key=lambda key: (str(key), type(key).__name__)):
            update(digest, key)
            update(digest, value[key])
    elif isinstance(value, list | tuple):
        _add(digest, "sequence", str(len(value)).encode())
        for part in value:
            update(digest, part)
    elif isinstance(value, set | frozenset):
        _add(digest, "set", b"")
        update(digest, sorted(value, key=lambda part: (str(part), type(part).__name__)))
    elif isinstance(value, bytes | bytearray):
        _add(digest, "bytes", value)
    else:  # bool, int, float, str, None, torch.dtype, ...: all with a repr that tells them apart
        _add(digest, type(value).__name__, repr(value).encode())


def _add(digest: Any, kind: str, content: bytes | bytearray) -> None:
    digest.update(f"{kind} {len(content)}:".encode() + content)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the hash of the run folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path, help="run folder")
    print(run_hash(parser.parse_args(argv).out_dir))


if __name__ == "__main__":
    with exit_on_error():
        main()
