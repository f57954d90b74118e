"""Reads and writes the files of the queue: several batches each, with their tensors and metadata."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from core.errors import DataError
from core.files import require_file, write_atomically

INPUTS = ("input", "x", "input_ids")  # names of the inputs in files, ours first
TARGETS = ("target", "y", "targets")
REMEDY = "remove the file: training goes on with the next one"


class StoredBatch(NamedTuple):
    """Tensors by name, with `input` and `target`, each with one entry per row; metadata: plain values."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, Any]


def write_batches(path: Path, batches: Sequence[StoredBatch], metadata: Mapping[str, Any]) -> None:
    """Write a batch file atomically. Raises DataError when that fails."""
    content = {"batches": [batch._asdict() for batch in batches], "metadata": dict(metadata)}

    def write(part: Path) -> None:
        with open(part, "wb") as file:  # given a path, torch would store its name in the file
            torch.save(content, file)

    try:
        write_atomically(path, write)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise DataError(f"cannot write {path} ({error}): is the disk full?") from error


def read_batches(path: Path, batch_size: int) -> list[StoredBatch]:
    """Return the batches of a file: a list of batches or, in the older layout, one tensor of all rows per name.

    batch_size: rows per batch. A list must hold batches of that size. All rows are cut into batches of that size; the
        last one is filled up with repetitions of its own rows

    Raises DataError, with the reason, for a file that is damaged or cannot be used. Code in the file is not executed.
    """
    try:
        require_file(path)
        with zipfile.ZipFile(path) as archive:  # torch does not check the checksums
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly any exception
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200] or type(error).__name__
        raise DataError(
            f"cannot read {path}: it is truncated, damaged, or holds more than tensors and plain values ({reason}); "
            f"{REMEDY}"
        ) from None
    try:
        if "batches" in content:
            batches = [_named(entry["tensors"], entry["metadata"]) for entry in content["batches"]]
        else:
            batches = _cut_rows(content["tensors"], content.get("metadata", {}), batch_size)
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a file of batches ({type(error).__name__}: {error}); {REMEDY}") from None
    if not batches:
        raise DataError(f"{path} holds no batch; {REMEDY}")
    for batch in batches:
        if any(len(tensor) != batch_size for tensor in batch.tensors.values()):
            raise DataError(
                f"{path} holds batches of {len(batch.tensors['input'])} rows, wanted batch_size={batch_size}: "
                "train with the batch_size of the queue, or fill it again"
            )
    return batches


def check_ids(path: Path, batches: Sequence[StoredBatch], vocab_size: int) -> None:
    """Raise DataError when a batch of a file has an id outside the model's vocabulary.

    Negative targets are positions without a target.
    """
    for number, batch in enumerate(batches):
        for name in ("input", "target"):
            ids = batch.tensors[name].numpy()
            if ids.dtype.kind not in "iu" or not ids.size:  # a scorer's targets are scores
                continue
            if ids.max() < vocab_size and (name == "target" or ids.min() >= 0):
                continue
            row, *rest = np.argwhere((ids >= vocab_size) | ((ids < 0) & (name == "input")))[0].tolist()
            place = f"batch {number}, row {row}, position {', '.join(map(str, rest)) or 0} of {name}"
            raise DataError(
                f"{path} holds token id {ids[(row, *rest)]} at {place}, but the model has ids from 0 to "
                f"{vocab_size - 1}: the file was made for another vocabulary; {REMEDY}"
            )


def _named(tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> StoredBatch:
    """Return a batch whose inputs and targets have our names, whatever their names in the file."""
    named = {name: tensor for name, tensor in tensors.items() if name not in INPUTS + TARGETS}
    for ours, names in (("input", INPUTS), ("target", TARGETS)):
        found = [name for name in names if name in tensors]
        if not found:
            raise KeyError(f"no tensor called {' or '.join(names)}")
        named[ours] = tensors[found[0]]
    if not all(isinstance(tensor, torch.Tensor) and tensor.dim() for tensor in named.values()):
        raise TypeError("wanted tensors of one entry per row")
    return StoredBatch(named, dict(metadata))


def _cut_rows(tensors: dict[str, torch.Tensor], metadata: dict[str, Any], batch_size: int) -> list[StoredBatch]:
    """Return the rows of a file as batches; the metadata of each row is dropped."""
    rows = _named(tensors, {key: value for key, value in metadata.items() if key == "model_mode"})
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
