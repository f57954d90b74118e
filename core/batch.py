"""Batches of any shape: a tensor, or dicts and tuples of them."""

import hashlib
from typing import Any

import torch


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch on another device; whatever is no tensor stays as it is."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return tuple(to_device(value, device) for value in batch)
    return batch


def fingerprint(batch: Any) -> str:
    """Return a short hash of a batch's shapes, types and numbers: equal for equal batches only."""
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
