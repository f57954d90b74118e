"""How a checkpoint becomes a file: here, one `torch.save`."""

from pathlib import Path
from typing import Any

import torch

from core import files
from core.checkpoint.format import load_checkpoint


class TorchFile:
    """Writes a checkpoint as one file that nanoGPT can read.

    Another format offers the same attribute and methods.

    suffix: of the name; "" if a checkpoint is a folder
    """

    suffix = ".pt"

    def gather(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Return what `write` needs. Called on every rank: a format with parts of several ranks writes them here."""
        return checkpoint

    def write(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Write the checkpoint to `path`, a temporary name. Called on rank 0."""
        try:
            torch.save(checkpoint, path)
            return
        except RuntimeError as error:
            failure = RuntimeError(str(error))  # without the traceback, which would keep the file open
        files.require_growth(path)  # torch does not say why it cannot write: a full disk, mostly
        raise failure

    def read(self, path: Path) -> dict[str, Any]:
        """Return the checkpoint at `path`, whose checksum was just compared. Called on every rank."""
        return load_checkpoint(path, check=False)
