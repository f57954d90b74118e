"""The memory of a device, and whether a model and its batches can fit into it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from core.errors import ConfigError
from core.files import size_text

PARAMETER_BYTES = 4  # float32
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")  # in errors of torch's allocators
CGROUP_FILES = {"": "memory.max", "memory": "memory.limit_in_bytes"}  # by controller: version 2, version 1


class TooLargeError(ConfigError):
    """A model, or a batch for it, cannot fit into the device's memory."""


def total_memory(device: torch.device) -> int | None:
    """Return a device's memory in bytes: a GPU's own; else the machine's with its swap, or less if its cgroup has less.

    None if the system does not say.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return None
    return min([memory, *cgroup_limits()]) + swap()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error says that memory has run out, of a GPU or of the machine."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in NO_MEMORY)


def cgroup_limits(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """Yield the limits in bytes of this process's cgroup; in a container that is the root."""
    for line in _lines(proc):
        _, controller, path = line.split(":", 2)
        if controller in CGROUP_FILES:
            for folder in (path.strip("/"), ""):
                limit = _lines(root / controller / folder / CGROUP_FILES[controller])
                yield from (int(number) for number in limit[:1] if number.isdecimal())  # "max": no limit


def swap(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the machine's swap space in bytes; 0 if the system does not say."""
    kilobytes = [line.split()[1] for line in _lines(meminfo) if line.startswith("SwapTotal:")]
    return int(kilobytes[0]) * 1024 if kilobytes else 0


def require_memory(
    config: Any,
    device: torch.device,
    *,
    trains: bool = False,
    moments: int = 2,
    sequences: int = 0,
    number_bytes: int = PARAMETER_BYTES,
) -> None:
    """Raise TooLargeError if a model cannot fit into a device's memory, however much of that is free.

    config:       of the model; one without `num_params`, such as a fork's, is not checked
    trains:       with gradients and the optimizer's moments for all parameters
    moments:      numbers that the optimizer keeps of each parameter: AdamW two
    sequences:    those of a batch that the model is trained on, of `config.block_size` tokens
    number_bytes: of a number in the products of a training step: 2 with autocast
    """
    if not hasattr(config, "num_params"):
        return
    count, total = config.num_params(), total_memory(device)
    model = count * PARAMETER_BYTES * (2 + moments if trains else 1)
    batch = sequences * config.block_size * config.kept_per_token() * number_bytes if sequences else 0
    if total is None or model + batch <= total:
        return
    place = f"the GPU {device} has" if device.type == "cuda" else "this machine has"
    kept = " and AdamW's moments" if moments else ""
    purpose = f" with their gradients{kept}" if trains else ""
    text = f"the model's {count:,} parameters{purpose} need {size_text(model)}"
    remedy = "choose a smaller n_layer, n_embd, block_size or vocabulary"
    if model <= total:
        text += f", and a batch of {sequences:,} x {config.block_size:,} tokens at least {size_text(batch)}"
        remedy = "lower batch_size (and raise gradient_accumulation_steps as much) or block_size"
    raise TooLargeError(f"{text}, more than the {size_text(total)} that {place}: {remedy}")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []
