"""Puts checkpoints on disk so that a crash at any instant leaves the last whole one, and finds it again."""

import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from core.errors import CheckpointError, ConfigError

WRAPPERS = ("_orig_mod", "module")  # what torch.compile and DistributedDataParallel put into a parameter's name


class CheckpointManager:
    """Owns the checkpoint of one run folder. It knows no format: whoever saves hands over what writes.

    writes: this process writes; the folder is then made, and must be writable
    """

    def __init__(self, out_dir: str | Path, writes: bool = True) -> None:
        self.out_dir = out_dir  # as the user wrote it, for messages
        self.path = Path(out_dir) / "ckpt.pt"
        if writes:
            _require_writable(self.path.parent)

    def save(self, write: Callable[[Path], None]) -> Path:
        """Replace the checkpoint by what `write(path)` makes, in one step: readers see the old or the new, whole."""
        aside = self.path.with_name(self.path.name + ".part")
        try:
            write(aside)
            _flush_to_disk(aside)
            os.replace(aside, self.path)
        except BaseException:
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
            raise
        with suppress(OSError):  # some network file systems cannot flush a folder; the file itself is safe
            _flush_to_disk(self.path.parent)
        return self.path

    def load(self) -> Path:
        """Return the path of the newest whole checkpoint. Raises CheckpointError where there is none."""
        if not self.path.is_file():
            raise CheckpointError(
                f"no checkpoint at {self.path}: set out_dir to the folder of a run that has saved one, "
                "or train one with --init_from=scratch"
            )
        return self.path


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours or of nanoGPT's into CPU memory. Code hidden in it is refused, not run."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in nearly any way
        # torch's reason is long, and where it refuses code its advice is to let the code run
        reason = re.split(r"WeightsUnpickler error:|\. ", " ".join(str(error).split()))
        what = (reason[1] if len(reason) > 1 and "WeightsUnpickler" in str(error) else reason[0]).strip()
        raise CheckpointError(
            f"cannot read {path}: it is truncated, damaged, or holds more than tensors and plain values "
            f"({what or type(error).__name__}); put a copy in its place, or start afresh with --init_from=scratch"
        ) from None
    found = checkpoint if isinstance(checkpoint, dict) else {}
    missing = [key for key in ("model", "model_args") if not isinstance(found.get(key), dict)]
    if missing:
        raise CheckpointError(f"{path} is not a checkpoint of this program: it lacks {', '.join(missing)}")
    checkpoint["model"] = handle_state_dict_prefixes(checkpoint["model"])
    return dict(checkpoint)


def handle_state_dict_prefixes(state: dict[str, Any], like: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the state under the names a plain model has, or under those of `like`, a wrapped model's state."""
    names = {_without_prefixes(name): name for name in like or ()}
    plain = {_without_prefixes(name): value for name, value in state.items()}
    return {names.get(name, name): value for name, value in plain.items()}


def _without_prefixes(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"out_dir={str(folder)!r} cannot be written to: {error.strerror}; choose another") from None


def _flush_to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
