"""Finds the checkpoint that a path or a run folder means, and loads the newest one into a model."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core import files
from core.checkpoint.format import handle_state_dict_prefixes, is_folder, load_checkpoint
from core.checkpoint.manager import CheckpointManager
from core.errors import CheckpointError
from core.optimizer import load_optimizer_state


def find_latest_checkpoint(out_dir: str | Path) -> Path:
    """Return the newest good checkpoint in a run folder. Raises CheckpointError if there is none.

    `find_checkpoint` returns the one that is `ckpt.pt` instead.
    """
    return CheckpointManager(out_dir).load().path


def find_checkpoint(path: str | Path) -> Path:
    """Return a checkpoint: `path` itself, or for a run folder its `ckpt.pt` or else the newest good checkpoint.

    Raises CheckpointError if there is none.
    """
    path = Path(path)
    if is_folder(path):
        return path
    if path.is_dir():
        return CheckpointManager(path).load(prefer_linked=True).path
    if kind := files.kind_of(path):
        raise CheckpointError(f"{path} is {kind}: give the folder of a run, or a checkpoint file in it")
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: give the folder of a run, or a file in it such as out/ckpt.pt")
    return path


def reload_from_latest(
    checkpoints: CheckpointManager, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load the newest healthy checkpoint into a model, wrapped or not, and its optimizer. Return the checkpoint."""
    found = checkpoints.load_healthy()
    if found is None:
        raise CheckpointError(f"no healthy checkpoint in {checkpoints.out_dir}")
    checkpoint = load_checkpoint(found.path, check=False)
    try:
        model.load_state_dict(handle_state_dict_prefixes(checkpoint["model"], like=model.state_dict()))
    except RuntimeError as error:
        raise CheckpointError(f"{found.path} does not fit the model: {error}") from None
    load_optimizer_state(optimizer, checkpoint.get("optimizer"))
    return checkpoint


def save_checkpoint(
    checkpoints: CheckpointManager,
    checkpoint: dict[str, Any],
    notes: dict[str, Any],
    *,
    link: bool = True,
    wait: bool = True,
) -> Path | None:
    """Write a checkpoint with `torch.save`; see `CheckpointManager.save`."""
    return checkpoints.save(functools.partial(torch.save, checkpoint), notes, link=link, wait=wait)
