"""Batches of any structure: a tensor, or dicts, lists and tuples of tensors."""

import hashlib
from collections.abc import Mapping
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


def is_for_model(batch: Batch, model_args: Mapping[str, Any]) -> bool:
    """Return whether a saved batch consists of tensors in memory, with ids of the model and no longer than its context.

    None is a batch that is not drawn yet. Ids are in rows; a seed or the numbers of the stages are none. The inputs,
    which come first, are not negative. Targets are -1 where they are ignored; in a dict, which an objective reads, any
    negative number says so.
    """
    if batch is None:
        return True
    tensors, vocab_size, block_size = _tensors(batch), model_args.get("vocab_size"), model_args.get("block_size")
    if not tensors or any(part.layout != torch.strided or part.is_meta or not part.numel() for part in tensors):
        return False
    if vocab_size is None or block_size is None:  # no model of tokens
        return True
    ids = [tensor for tensor in tensors if tensor.dtype == torch.long and tensor.dim() > 1]
    is_known = all(int(tensor.max()) < vocab_size for tensor in ids)
    is_short = all(tensor.size(1) <= block_size for tensor in ids if tensor.dim() == 2)
    has_inputs = len(tensors) > 1 and tensors[0].dtype == torch.long and int(tensors[0].min()) >= 0
    has_targets = isinstance(batch, dict) or all(int(tensor.min()) >= -1 for tensor in ids)
    return is_known and is_short and has_inputs and has_targets


def has_tensors(batch: Batch, *keys: str) -> bool:
    """Return whether a batch is a dict with tensors under these keys."""
    return isinstance(batch, dict) and all(isinstance(batch.get(key), torch.Tensor) for key in keys)


def _tensors(batch: Batch) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


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
