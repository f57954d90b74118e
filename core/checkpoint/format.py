"""What a checkpoint and its manifest hold, and how a checkpoint file is read."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from core.checkpoint.numpy_numbers import ALLOWED
from core.checkpoint.other_formats import kind_of_content, kind_of_file
from core.checkpoint.weights import non_finite, read_tensors
from core.commands import command
from core.errors import CheckpointError

FORMAT = 1  # of the manifest and of what it describes

CHECKPOINT = {
    # nanoGPT's keys
    "model": "weights by name, of the model that is neither compiled nor wrapped",
    "optimizer": "the optimizer's state dict",
    "model_args": "arguments of the model's config class",
    "iter_num": "the iteration that comes next",
    "best_val_loss": "validation loss of the last evaluation that saved, better or not",
    "config": "the options; and `meta`, the special token ids of a run that learns something other than the next token",
    # ours
    "tokenizer": "what the token ids stand for: the data set's meta.pkl; None without one, which means GPT-2's tokens",
    # what an exact resume needs as well
    "lowest_val_loss": "the lowest validation loss seen",
    "saved_metric": "with another best_metric than the validation loss: its value at the last evaluation that saved",
    "evaluated_at": "iteration of the last evaluation, which a resume does not repeat; None before the first",
    "recovery": "rollbacks made (`history`), their factor on the learning rate, and the batches to skip (`left_out`)",
    "callbacks": "states of the callbacks that have one, by class name",
    "loggers": "states of the loggers that have one, by class name",
    "scaler": "the gradient scaler's state dict; empty without float16",
    "ranks": "for each rank: its position, as below",
    "run": "id of the run, kept by an exact resume",
    # only in a checkpoint that is a folder, whose `model` is empty
    "weights": "for each weight, its name in the folder's safetensors files",
    # only in a checkpoint that tools.convert made, which has no ranks
    "objective": "state of the objective",
}

POSITION = {
    "rng": "states of the random generators: torch (cpu, cuda, mps), python, numpy",
    "batch": "the batch that was drawn for the next update",
    "data": "state of the data source: where the next batches come from",
    "objective": "state of the objective: running means of its loss modifiers",
    "detector": "state of the instability detector: its window of recent losses and gradient norms",
}

MANIFEST = {
    # which file it describes
    "format": "version of this layout",
    "sequence": "number of the checkpoint; the order of checkpoints is that of their numbers",
    "file": "name of the checkpoint file, or folder",
    "sha256": "checksum of its content",
    "bytes": "its size",
    # the run at this point
    "iter_num": "the iteration that comes next",
    "train_loss": "mean training loss of these weights; null if they were not evaluated",
    "val_loss": "mean validation loss of these weights; null if they were not evaluated",
    "lowest_val_loss": "the lowest validation loss seen; null before the first evaluation",
    "best_metric": "name, mode and value of what decides which checkpoint is best; absent if it is the validation loss",
    "healthy": "nothing was unstable since the checkpoint before: a rollback may go back here",
    "finished": "the run has made its last update",
    "run": "id of the run, kept by an exact resume",
    "launch": "torchrun's id of this launch; null without",
    "batch": "for each rank: hash of the batch that was drawn for the next update",
    "data_position": "for each rank: state of the data source; null if it has none, or none that JSON holds",
    # where and with what it was made
    "git": "revision of the program",
    "python": "version",
    "torch": "version",
    "device": "type and model",
    "threads": "of each process",
    "world_size": "number of processes",
    "platform": "operating system and machine",
    "data_fingerprint": "hash of sizes and samples of the data set's files; called `data` before version 0.2",
    "saved": "time, UTC",
    # nanoGPT's file
    "linked": "ckpt.pt is to be a second name of this file",
    "beside": "checksum of what was ckpt.pt before this save; null if there was none",
}

STATE = "training.pt"  # in a checkpoint that is a folder: all but the weights
FOREIGN_CLASS = re.compile(
    r"Unsupported global: GLOBAL (model|train_utils|training_utils)\b(?!\.GPT(Config)? )"
)  # classes of legacy programs; `model.GPT` is a whole model of nanoGPT's, `model.GPTConfig` its config
OBJECT = re.compile(r"Unsupported global: GLOBAL (\S+) was")
CONVERT = (
    "{path} was saved by the train_run or the core line: convert it with `{convert} {path}`, and use the "
    "file that it writes"
)
# what torch.compile, DistributedDataParallel, FSDP, activation checkpointing, Fabric and Opacus put into names
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_module")


def arrange(layout: Mapping[str, str], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return `parts` in the order of a layout above, then keys that it does not name. A part may be absent."""
    return {**{key: parts[key] for key in layout if key in parts}, **parts}


def load_checkpoint(path: str | Path, check: bool = True) -> dict[str, Any]:
    """Read a checkpoint of ours or of nanoGPT's into CPU memory. Code hidden in the file is refused, not run.

    Of a folder, the weights are those in its safetensors files.

    check: compare the file's own checksums, which torch does not, and refuse weights that are not finite; not needed
           if the manifest's checksum was just compared
    """
    checkpoint = _read(path, check)
    if is_folder(path):
        checkpoint["model"] = read_tensors(Path(path), checkpoint.pop("weights", {}))
    if _needs_conversion(checkpoint):
        raise CheckpointError(CONVERT.format(path=path, convert=command("tools/convert.py")))
    checkpoint["model"] = handle_state_dict_prefixes(checkpoint["model"])
    if check and (names := list(non_finite(checkpoint["model"]))):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise CheckpointError(
            f"{path} holds weights that are NaN or infinite: {names[0]}{more}; its training had diverged: use an "
            "earlier checkpoint"
        )
    return checkpoint


def load_values(path: str | Path) -> dict[str, Any]:
    """Read the plain values of a checkpoint; its tensors stay on the disk until they are used."""
    return _read(path, check=False, mapped=True)


def is_folder(path: str | Path) -> bool:
    """Return whether a path is a checkpoint that is a folder."""
    return Path(path, STATE).is_file()


def identity(path: Path) -> tuple[str | None, int | None]:
    """Return run id and iteration of a checkpoint file, None for what it lacks. CheckpointError if it is none."""
    checkpoint = _read(path, check=True, mapped=True)
    run, iter_num = checkpoint.get("run"), checkpoint.get("iter_num")
    return run if isinstance(run, str) else None, iter_num if isinstance(iter_num, int) else None


def handle_state_dict_prefixes(state: dict[str, Any], like: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the state under the names of the plain model, or of `like`, the state of a wrapped model."""
    names = {_without_prefixes(name): name for name in like or ()}
    plain = {_without_prefixes(name): value for name, value in state.items()}
    return {names.get(name, name): value for name, value in plain.items()}


def _read(path: str | Path, check: bool, mapped: bool = False) -> dict[str, Any]:
    """Return a checkpoint's dict. Raises CheckpointError with the reason if the file is no checkpoint.

    mapped: leave the tensors on the disk until they are used
    """
    path = Path(path, STATE) if is_folder(path) else path
    try:
        is_zip = zipfile.is_zipfile(path)
        if check and is_zip:
            _check_records(path)
        with torch.serialization.safe_globals(ALLOWED):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zip)
    except Exception as error:  # a damaged file can fail in nearly any way
        # torch's reason is long, and where it refuses code its advice is to let the code run
        text = " ".join(str(error).split())
        if FOREIGN_CLASS.search(text):
            raise CheckpointError(CONVERT.format(path=path, convert=command("tools/convert.py"))) from None
        if kind := kind_of_file(path):
            raise CheckpointError(f"{path} is {kind}") from None
        found = re.search(r"WeightsUnpickler error: (.*?)(\.? Check the documentation|\. |$)", text)
        what = found[1] if found else text.split(". ")[0]
        unknown = OBJECT.search(text)
        advice = "put a good copy in its place"
        if unknown and "numpy" in unknown[1]:
            advice = "if it is yours, save tensors in place of NumPy arrays: `torch.from_numpy(array)`"
        elif unknown:
            advice = (
                f"if it is yours, save plain values in place of the {unknown[1].rpartition('.')[2]}, such as "
                "`vars(config)` or `model.state_dict()`"
            )
        raise CheckpointError(
            f"cannot read {path}: it is truncated, damaged, or holds more than tensors and plain values "
            f"({what or type(error).__name__}); {advice}"
        ) from None
    given = checkpoint if isinstance(checkpoint, dict) else {}
    missing = [key for key in ("model", "model_args") if not isinstance(given.get(key), dict)]
    if missing and (kind := kind_of_content(path, checkpoint)):
        raise CheckpointError(f"{path} is {kind}")
    if missing:
        raise CheckpointError(f"{path} is not a checkpoint of this program: it lacks {', '.join(missing)}")
    if not all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in given["model"].items()):
        raise CheckpointError(f"{path} is not a checkpoint of this program: its model is no set of named tensors")
    if fault := next(filter(None, map(_fault_of, given["model"], given["model"].values())), None):
        raise CheckpointError(f"{path} cannot be used: its {fault}")
    config = given.get("config")
    if config is not None and not (isinstance(config, dict) and _is_usable(config)):
        raise CheckpointError(f"{path} is damaged: its config is no dict of options; put a good copy in its place")
    if not isinstance(given.get("tokenizer"), dict | NoneType):  # a fork's own note, not what its token ids stand for
        given = {**given, "tokenizer": None}
    return dict(given)


def _is_usable(config: dict[str, Any]) -> bool:
    """Return whether options name a data set, if any, and hold the special ids by name, if any."""
    return _is_dataset(config.get("dataset")) and isinstance(config.get("meta"), dict | NoneType)


def _is_dataset(name: Any) -> bool:
    """Return whether a value can be the name or the path of a data set."""
    is_path = isinstance(name, str) and "\0" not in name
    return name is None or (is_path and all(len(part.encode(errors="replace")) < 256 for part in name.split("/")))


def _fault_of(name: str, tensor: torch.Tensor) -> str | None:
    """Return the name of a weight and why no model can load it; None for an ordinary tensor."""
    if tensor.layout != torch.strided:
        return f"{name} is sparse: save it with `to_dense()`"
    if tensor.device.type == "meta":
        return f"{name} holds no numbers (it is on the device meta): save the model after its weights are loaded"
    if tensor.is_complex() or tensor.is_quantized:
        return f"{name} is of type {tensor.dtype}: save it as float32"
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
        return f"{name} repeats fewer numbers than its shape {tuple(tensor.shape)} has: save it with `contiguous()`"
    return None


def is_of_an_earlier_line(checkpoint: dict[str, Any]) -> bool:
    """Return whether a checkpoint is of the train_run or the core line, by the keys that only those have."""
    config = checkpoint.get("config")
    notes = config if isinstance(config, dict) else {}
    theirs = "training_type" not in notes and bool(notes.keys() & {"meta", "model_mode"})
    return "training_context" in checkpoint or theirs


def _needs_conversion(checkpoint: dict[str, Any]) -> bool:
    """Return whether a readable file is of a legacy program, and holds more than a causal language model."""
    return is_of_an_earlier_line(checkpoint) and checkpoint["model_args"].get("attention_type") != "causal"


def _without_prefixes(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _check_records(path: str | Path) -> None:
    """Compare every record of a zip file with the checksum that is stored in the file."""
    with zipfile.ZipFile(path) as file:
        if record := file.testzip():
            raise ValueError(f"the checksum of {record} is wrong")
