"""Batches of any structure: a tensor, or dicts, lists and tuples of tensors."""

import hashlib
from typing import Any

import torch

Batch = Any  # what a data source's get_batch returns; only the objective looks inside


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on another device; values that are no tensors stay as they are, a named tuple becomes a tuple.

    A copy to a GPU goes through pinned memory and runs while the GPU computes. A scalar stays on the CPU, where reading
    it waits for nothing; PyTorch combines it with tensors of any device.
    """
    if isinstance(batch, torch.Tensor):
        is_on_cpu = batch.device.type == "cpu"
        if is_on_cpu and batch.dim() == 0:
            return batch
        if is_on_cpu and device.type == "cuda":
            return batch.pin_memory().to(device, non_blocking=True)
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list):
        return [to_device(value, device) for value in batch]
    if isinstance(batch, tuple):
        return tuple(to_device(value, device) for value in batch)
    return batch


def fingerprint(batch: Batch) -> str:
    """Return a short hash of a batch's structure, shapes, types and numbers."""
    digest = hashlib.sha256()
    _add(digest, batch)
    return digest.hexdigest()[:16]


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key, part in value.items():
            digest.update(f"{key}:".encode())
            _add(digest, part)
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)}[".encode())
        for part in value:
            _add(digest, part)
    else:
        digest.update(repr(value).encode())
