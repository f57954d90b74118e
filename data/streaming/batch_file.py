"""One file of the queue: several batches, each with its tensors and what is to be said about them."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.errors import DataError

INPUTS = ("input", "x", "input_ids")  # by these names a batch's inputs go, ours first
TARGETS = ("target", "y", "targets")
REMEDY = "remove it: training goes on with the file after it"
ASIDE = ".part"  # the end of a name whose content is not whole yet


class StoredBatch(NamedTuple):
    """Tensors by name, `input` and `target` among them, each with one entry per row; and plain values about them."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, Any]


def write_batches(path: Path, batches: Sequence[StoredBatch], metadata: Mapping[str, Any]) -> None:
    """Write a file in one step: it is there, whole and safe on the disk, or it is not there."""
    content = {"batches": [batch._asdict() for batch in batches], "metadata": dict(metadata)}
    aside = path.with_name(path.name + ASIDE)
    try:
        with open(aside, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise DataError(f"cannot write {path} ({error}): is the disk full?") from error
    finally:
        aside.unlink(missing_ok=True)


def read_batches(path: Path, batch_size: int) -> list[StoredBatch]:
    """Read a file of either layout: a list of batches, or (older) the rows of all of them in one tensor per name.

    batch_size: rows per batch. A list must hold batches of that size; rows are cut into such, the last one filled up
        by repeating its own

    Raises DataError, with the reason, for a file that is damaged or cannot be used. Code hidden in it is not run.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in nearly any way
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"cannot read {path}: it is truncated, damaged, or holds more than tensors and plain values ({reason}); "
            f"{REMEDY}"
        ) from None
    try:
        if "batches" in content:
            batches = [_batch(entry["tensors"], entry["metadata"]) for entry in content["batches"]]
        else:
            batches = _cut(content["tensors"], content.get("metadata", {}), batch_size)
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a file of batches ({type(error).__name__}: {error}); {REMEDY}") from None
    if not batches:
        raise DataError(f"{path} holds no batch; {REMEDY}")
    for batch in batches:
        if any(len(tensor) != batch_size for tensor in batch.tensors.values()):
            raise DataError(
                f"{path} holds batches of {len(batch.tensors['input'])} rows, wanted batch_size={batch_size}: "
                "train with the batch_size that the queue is filled with, or fill it anew"
            )
    return batches


def _batch(tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> StoredBatch:
    """Give inputs and targets their names, whatever they are called in the file."""
    named = {name: tensor for name, tensor in tensors.items() if name not in INPUTS + TARGETS}
    for ours, names in (("input", INPUTS), ("target", TARGETS)):
        found = [name for name in names if name in tensors]
        if not found:
            raise KeyError(f"no tensor called {' or '.join(names)}")
        named[ours] = tensors[found[0]]
    if not all(isinstance(tensor, torch.Tensor) and tensor.dim() for tensor in named.values()):
        raise TypeError("wanted tensors of one entry per row")
    return StoredBatch(named, dict(metadata))


def _cut(tensors: dict[str, torch.Tensor], metadata: dict[str, Any], batch_size: int) -> list[StoredBatch]:
    """Cut the rows of a whole file into batches; what is said about each row stays behind."""
    rows = _batch(tensors, {key: value for key, value in metadata.items() if key == "model_mode"})
    count = len(rows.tensors["input"])
    if any(len(tensor) != count for tensor in rows.tensors.values()):
        raise TypeError("the tensors differ in their number of rows")
    batches = []
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        picked = start + torch.arange(batch_size) % size
        cut = {name: tensor[picked] for name, tensor in rows.tensors.items()}
        batches.append(StoredBatch(cut, rows.metadata))
    return batches
