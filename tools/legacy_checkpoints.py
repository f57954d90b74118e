"""Finds and reads the checkpoint files of the train_run line and the core line."""

import io
import json
import os
import pickle
import re
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from core.checkpoint.other_formats import kind_of_file
from core.errors import CheckpointError
from core.files import require_file

SIDECAR = "ckpt_meta.json"
WANTED = "give a ckpt_<type>_<iter>.pt, a ckpt.pt, or their folder"
NUMBERED = re.compile(r"ckpt_(.+)_(\d+)\.pt")
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def find(old: str | Path) -> Path:
    """Return the path of a checkpoint file, given the file, its folder, or the folder's ckpt_meta.json.

    In a folder the entry of ckpt_meta.json counts, as in the legacy programs; else the file with the highest number;
    else `ckpt.pt`. Raises CheckpointError if there is no checkpoint, or if there are several types of training.
    """
    old = Path(old)
    if not old.is_dir() and old.name != SIDECAR:
        return old
    folder = old if old.is_dir() else old.parent
    newest = _newest_by_number(folder) | _newest_by_sidecar(folder / SIDECAR)
    if len(newest) > 1:
        names = ", ".join(str(path) for path in newest.values())
        raise CheckpointError(f"{folder} holds checkpoints of several types of training: give one of the files {names}")
    path = next(iter(newest.values()), folder / "ckpt.pt")
    if not path.is_file():
        named = f", which {SIDECAR} names" if newest else ""
        found = sorted(file.name for file in folder.glob("*.pt"))
        there = f"; its folder has {', '.join(found[:5])}{', ...' if len(found) > 5 else ''}" if found else ""
        raise CheckpointError(f"no checkpoint at {path}{named}: {WANTED}{there}")
    return path


def _newest_by_sidecar(path: Path) -> dict[str, Path]:
    """Return the newest checkpoint of each type of training; an empty dict if the sidecar is missing or damaged."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {kind: path.parent / Path(entry["last_path"]).name for kind, entry in entries.items()}
    except (OSError, ValueError, AttributeError, TypeError, LookupError):
        return {}


def _newest_by_number(folder: Path) -> dict[str, Path]:
    """Return the checkpoint with the highest number of each type of training."""
    files = [(int(match[2]), match[1], path) for path in folder.iterdir() if (match := NUMBERED.fullmatch(path.name))]
    return {kind: path for _, kind, path in sorted(files)}


# reading


def read(path: str | Path) -> Any:
    """Return the content of a file of `torch.save` as tensors and plain values, without importing or calling a class.

    An enum member becomes its value, a dataclass a dict of its fields and its `class`. Raises CheckpointError if the
    file is damaged or has another format.
    """
    if not os.path.lexists(path):
        raise CheckpointError(f"no checkpoint at {path}: {WANTED}")
    try:
        require_file(Path(path))
        with zipfile.ZipFile(path) as file:
            (name,) = [name for name in file.namelist() if name.endswith("/data.pkl")]
            return _to_plain(_StandInUnpickler(file, name.removesuffix("data.pkl")).load())
    except Exception as error:  # a damaged file can raise nearly any exception
        if os.path.isfile(path) and (kind := kind_of_file(path)):  # reading a pipe or a device may never end
            raise CheckpointError(f"{path} is {kind}") from None
        raise CheckpointError(
            f"cannot read {path}: it is damaged, or not saved by PyTorch 1.6 or later ({type(error).__name__}: {error})"
        ) from None


class _Storage(NamedTuple):
    """The numbers of one or more tensors."""

    flat: torch.Tensor


class _StandIn:
    """Represents an object of any class, or the result of any function, by the contents of the pickle."""

    path = ""  # of the class or function
    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "_StandIn":
        self = super().__new__(cls)
        self.args, self.state, self.items = args, None, {}
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value


class _StandInUnpickler(pickle.Unpickler):
    """Unpickles data.pkl of a zip file, with stand-ins for all classes and functions."""

    def __init__(self, file: zipfile.ZipFile, root: str) -> None:
        order = f"{root}byteorder"
        if order in file.namelist() and file.read(order).decode() != sys.byteorder:
            raise ValueError(f"its numbers are not {sys.byteorder}-endian, as on this machine")
        super().__init__(io.BytesIO(file.read(f"{root}data.pkl")))
        self.file = file
        self.root = root
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        return type("StandIn", (_StandIn,), {"path": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, *_ = pid
        if key not in self.storages:  # tied tensors share a storage
            dtype = STORAGES[kind.path.rpartition(".")[2]]
            data = bytearray(self.file.read(f"{self.root}data/{key}"))
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            self.storages[key] = _Storage(flat)
        return self.storages[key]


def _to_plain(value: Any) -> Any:
    """Return a value in which plain values replace all stand-ins."""
    if isinstance(value, _StandIn):
        return _resolve(value)
    if isinstance(value, type):
        return value.path if issubclass(value, _StandIn) else value.__name__
    if isinstance(value, dict):
        return {_to_plain(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | set | frozenset):
        return [_to_plain(item) for item in value]
    return tuple(_to_plain(item) for item in value) if isinstance(value, tuple) else value


def _resolve(stand_in: _StandIn) -> Any:
    """Return the plain value of a stand-in: a tensor, number, container, enum value, or a dict of fields."""
    module, _, name = stand_in.path.rpartition(".")
    if stand_in.path == "torch._utils._rebuild_tensor_v2":
        storage, offset, size, stride = stand_in.args[:4]
        return torch.as_strided(storage.flat, _to_plain(size), _to_plain(stride), offset)
    args = _to_plain(stand_in.args)
    if stand_in.path in ("torch._utils._rebuild_parameter", "_codecs.encode"):
        return args[0].encode("latin1") if name == "encode" else args[0]
    if stand_in.path in ("collections.OrderedDict", "collections.defaultdict"):
        return _to_plain(stand_in.items)
    if stand_in.path == "numpy.dtype":
        return stand_in.state[1].strip("|") + args[0] if stand_in.state else args[0]
    if name == "scalar" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        return np.frombuffer(args[1], dtype=np.dtype(str(args[0]))).tolist()[0]
    if name == "getattr" and len(args) == 2:  # how some versions of Python pickle an enum member
        return str(args[1]).lower()
    if isinstance(stand_in.state, dict):
        return {"class": stand_in.path, **_to_plain(stand_in.state)}
    return args[0] if len(args) == 1 else {"class": stand_in.path, "args": list(args)}
