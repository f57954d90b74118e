"""The checkpoint that this program reads and writes: one `torch.save` file, a dict with nanoGPT's keys."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from core.errors import CheckpointError

FOREIGN_CLASS = re.compile(r"Unsupported global: GLOBAL (model|train_utils|training_utils)\b")  # pickled with theirs
CONVERT = (
    "{path} was saved by the train_run or the core line: convert it with `python -m tools.convert {path}`, and use the "
    "file that it writes"
)
WRAPPERS = ("_orig_mod", "module")  # what torch.compile and DistributedDataParallel put into a parameter's name


def load_checkpoint(path: str | Path, check: bool = True) -> dict[str, Any]:
    """Read a checkpoint of ours or of nanoGPT's into CPU memory. Code hidden in it is refused, not run.

    check: look at the file's own checksums, which torch does not; needless where a manifest's was just compared
    """
    checkpoint = _read(path, check)
    if _is_to_be_converted(checkpoint):
        raise CheckpointError(CONVERT.format(path=path))
    checkpoint["model"] = handle_state_dict_prefixes(checkpoint["model"])
    return checkpoint


def identity(path: Path) -> tuple[str | None, int | None]:
    """Return of which run, and of which iteration, a checkpoint says it is. Raises CheckpointError if it is none."""
    checkpoint = _read(path, check=True, mapped=True)
    run, iter_num = checkpoint.get("run"), checkpoint.get("iter_num")
    return run if isinstance(run, str) else None, iter_num if isinstance(iter_num, int) else None


def handle_state_dict_prefixes(state: dict[str, Any], like: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the state under the names a plain model has, or under those of `like`, a wrapped model's state."""
    names = {_without_prefixes(name): name for name in like or ()}
    plain = {_without_prefixes(name): value for name, value in state.items()}
    return {names.get(name, name): value for name, value in plain.items()}


def _read(path: str | Path, check: bool, mapped: bool = False) -> dict[str, Any]:
    """Return a checkpoint's dict. Raises CheckpointError with the reason why it is none.

    mapped: leave the tensors on the disk until somebody looks at them
    """
    try:
        is_zip = zipfile.is_zipfile(path)
        if check and is_zip:
            _check_records(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zip)
    except Exception as error:  # a damaged file can fail in nearly any way
        # torch's reason is long, and where it refuses code its advice is to let the code run
        text = " ".join(str(error).split())
        if FOREIGN_CLASS.search(text):
            raise CheckpointError(CONVERT.format(path=path)) from None
        found = re.search(r"WeightsUnpickler error: (.*?)(\.? Check the documentation|\. |$)", text)
        what = found[1] if found else text.split(". ")[0]
        raise CheckpointError(
            f"cannot read {path}: it is truncated, damaged, or holds more than tensors and plain values "
            f"({what or type(error).__name__}); put a copy in its place, or start afresh with --init_from=scratch"
        ) from None
    given = checkpoint if isinstance(checkpoint, dict) else {}
    missing = [key for key in ("model", "model_args") if not isinstance(given.get(key), dict)]
    if missing:
        raise CheckpointError(f"{path} is not a checkpoint of this program: it lacks {', '.join(missing)}")
    if not all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in given["model"].items()):
        raise CheckpointError(f"{path} is not a checkpoint of this program: its model is no set of named tensors")
    return dict(checkpoint)


def _is_to_be_converted(checkpoint: dict[str, Any]) -> bool:
    """Tell whether a readable file is one of those lines', and more than a causal language model."""
    config = checkpoint.get("config")
    notes = config if isinstance(config, dict) else {}
    theirs = "training_type" not in notes and bool(notes.keys() & {"meta", "model_mode"})
    return ("training_context" in checkpoint or theirs) and checkpoint["model_args"].get("attention_type") != "causal"


def _without_prefixes(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _check_records(path: str | Path) -> None:
    """Compare every record of a zip file with the checksum that is stored beside it."""
    with zipfile.ZipFile(path) as file:
        if record := file.testzip():
            raise ValueError(f"the checksum of {record} is wrong")
