"""A checkpoint's manifest: what the checkpoint is, and its checksum. A checkpoint without manifest does not count."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import files
from core.checkpoint.format import FORMAT, MANIFEST, arrange
from core.errors import CheckpointError

SEAL = "seal"  # the manifest's own checksum, so that damage to it is noticed
UNSEALED = ("format", SEAL)  # a newer format may seal other fields, and its number must still be read
FOLDER = re.compile(r"checkpoint-(\d+)(-\d+)?")  # name of a checkpoint that is a folder: of its iteration
NOTES = ("iter_num", "val_loss", "healthy")  # fields that the caller of a save must give
LARGEST_BYTES = 2**26
Manifest = dict[str, Any]
FIELDS: dict[str, Any] = {
    "format": int,
    "sequence": int,
    "file": str,
    "sha256": str,
    "bytes": int,
    "iter_num": int,
    "val_loss": (int, float, type(None)),
    "healthy": bool,
}


class FutureFormatError(CheckpointError):
    """A checkpoint was written by a newer version of this program."""


class UnreadableError(CheckpointError):
    """The disk failed to read; it may succeed another time."""


def name_of(sequence: int) -> str:
    """Return the name of a checkpoint, without suffix."""
    return f"ckpt-{sequence:06d}"


def sequence_of(name: str) -> int | None:
    """Return the number in the name of a checkpoint, its manifest, or a temporary file of either; else None."""
    found = re.fullmatch(r"(ckpt-([0-9]{6,}))(\.pt|\.json)?(\.part)?", name)
    sequence = int(found[2]) if found else 0
    return sequence if found and found[1] == name_of(sequence) else None


def new_folder(parent: Path, iter_num: int) -> Path:
    """Return the path of a new folder for a checkpoint: `checkpoint-ITERATION`, with another number if it is there."""
    path, number = parent / f"checkpoint-{iter_num}", 1
    while os.path.lexists(path):
        number += 1
        path = parent / f"checkpoint-{iter_num}-{number}"
    return path


def plain(notes: Manifest) -> Manifest:
    """Return a copy of the caller's notes as JSON holds them: numbers that are not finite become None."""
    assert all(field in notes for field in NOTES), f"a manifest needs {', '.join(NOTES)}"
    copy: Manifest = json.loads(json.dumps(notes), parse_constant=lambda _: None)
    return copy


def describe(path: Path, sequence: int, notes: Manifest) -> Manifest:
    """Return the manifest of the checkpoint at `path`."""
    own = {
        "format": FORMAT,
        "sequence": sequence,
        "file": path.name,
        "sha256": files.sha256(path),
        "bytes": files.size(path),
    }
    return arrange(MANIFEST, {**notes, **own})


def read(path: Path) -> Manifest:
    """Return a manifest. Raises CheckpointError if the file is damaged, UnreadableError if the disk fails."""
    if path.is_symlink() or not path.is_file():
        raise CheckpointError(f"{path.name} is a link, or no file")
    try:
        with open(path, "rb") as file:
            manifest = json.loads(file.read(LARGEST_BYTES))
    except OSError as error:
        raise UnreadableError(f"{path.name} cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path.name} is damaged: it is not JSON") from None
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path.name} is no manifest")
    _check(manifest, path)
    return {field: value for field, value in manifest.items() if field != SEAL}


def write(path: Path, manifest: Manifest) -> None:
    """Write a manifest, in one step."""
    text = json.dumps({**manifest, SEAL: _seal(manifest)}, indent=1, allow_nan=False) + "\n"
    files.write_atomically(path, lambda part: _write_text(part, text))


def verify(manifest: Manifest, folder: Path, sha256: Callable[[Path], str] = files.sha256) -> Path:
    """Return the path of a manifest's checkpoint. Raises CheckpointError unless it is there as it was saved."""
    path: Path = folder / manifest["file"]
    try:
        require_present(manifest, folder)
        if sha256(path) != manifest["sha256"]:
            raise CheckpointError(f"{path.name} is damaged: its checksum is not its manifest's")
    except OSError as error:
        raise UnreadableError(f"{path.name} cannot be read ({error.strerror or error})") from None
    return path


def require_present(manifest: Manifest, folder: Path) -> None:
    """Raise CheckpointError unless a manifest's checkpoint is there with the right size; the content is not read."""
    path = folder / manifest["file"]
    if path.is_symlink():
        raise CheckpointError(f"{path.name} is a symbolic link")
    if not path.exists():
        raise CheckpointError(f"{path.name} is missing")
    if (size := files.size(path)) != manifest["bytes"]:
        raise CheckpointError(f"{path.name} has {size} bytes, its manifest says {manifest['bytes']}")


def _check(manifest: Manifest, path: Path) -> None:
    """Raise CheckpointError unless a manifest is one of ours, unchanged, and belongs to its file name."""
    for field, kind in FIELDS.items():
        value = manifest.get(field)
        right = field in manifest and isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if field == "format" and right and manifest["format"] > FORMAT and _is_sealed(manifest):
            raise FutureFormatError(
                f"{path} is of format {manifest['format']}, this program knows {FORMAT}: a newer version of it wrote "
                "the checkpoints in this folder; use that one, or choose another out_dir"
            )
        if not right:
            raise CheckpointError(f"{path.name} is damaged: its {field!r} is missing or wrong")
    file = manifest["file"]
    is_named = file in (path.stem, f"{path.stem}.pt") or FOLDER.fullmatch(file)
    if manifest["sequence"] != sequence_of(path.name) or not is_named:
        raise CheckpointError(f"{path.name} is the manifest of another checkpoint ({file!r})")
    if manifest["format"] != FORMAT or manifest.get(SEAL) != _seal(manifest):
        raise CheckpointError(f"{path.name} is damaged: it is not as it was written")


def _is_sealed(manifest: Manifest) -> bool:
    """Return whether a manifest of another format is intact, not one of ours with damaged bits."""
    return SEAL not in manifest or manifest[SEAL] == _seal(manifest)


def _seal(manifest: Manifest) -> str:
    sealed = {field: value for field, value in manifest.items() if field not in UNSEALED}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
