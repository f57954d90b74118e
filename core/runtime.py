"""One process of a run: its rank, device, precision and seed."""

import gc
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from core.errors import ConfigError

log = logging.getLogger("coregpt")
T = TypeVar("T")


class Runtime:
    """Sets up the process on entering and tears it down on leaving; in between it talks to the other ranks.

    Reads RANK, LOCAL_RANK and WORLD_SIZE as torchrun sets them; without them the run is a single process.
    """

    def __init__(
        self,
        *,
        device: str = "cuda",
        dtype: str = "float32",
        backend: str = "nccl",
        seed: int = 1337,
        cpu_autocast: bool = False,
    ) -> None:
        self.distributed = "RANK" in os.environ
        self.rank = int(os.environ.get("RANK", 0))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.is_master = self.rank == 0
        self.seed = seed
        self._at_exit = ExitStack()
        _notes_to_stderr(logging.INFO if self.is_master else logging.ERROR)

        self.device = resolve_device(device, self.local_rank if self.distributed else None)
        self.backend = backend if self.device.type == "cuda" else "gloo"
        self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
        on_cpu = cpu_autocast and self.device.type == "cpu" and self.dtype == torch.bfloat16
        lowers = self.device.type == "cuda" or on_cpu
        self.autocast: AbstractContextManager[Any] = (
            torch.amp.autocast(self.device.type, dtype=self.dtype) if lowers else nullcontext()
        )
        needs_scaling = self.device.type == "cuda" and self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler("cuda", enabled=needs_scaling)

    def __enter__(self) -> "Runtime":
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.distributed:
            dist.init_process_group(backend=self.backend)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        self.seed_all()
        if self.device.type == "cpu":
            _keep_freed_memory()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._at_exit.close()
        if self.distributed:
            gc.collect()  # a wrapped model that outlives its process group can abort the process
            dist.destroy_process_group()

    def at_exit(self, action: Callable[[], None]) -> None:
        """Call `action` on leaving, however the run ends; the last action given is called first."""
        self._at_exit.callback(action)

    def micro_steps_per_rank(self, gradient_accumulation_steps: int) -> int:
        """Return how many of an update's micro-batches this process computes."""
        if gradient_accumulation_steps % self.world_size:
            raise ConfigError(
                f"gradient_accumulation_steps={gradient_accumulation_steps} cannot be divided evenly among "
                f"{self.world_size} processes: choose a multiple of {self.world_size}"
            )
        return gradient_accumulation_steps // self.world_size

    def on_master(self, compute: Callable[[], T]) -> T:
        """Call `compute` on rank 0 only, and return its result on every rank; an exception is raised on every rank."""
        if not self.distributed:
            return compute()
        box: list[Any] = [None, None]
        try:
            box[0] = compute() if self.is_master else None
        except Exception as error:
            box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]  # type: ignore[no-any-return]

    def on_every_rank(self, compute: Callable[[], T]) -> T:
        """Call `compute` on every rank, and return rank 0's result on every rank."""
        result = compute()
        return self.on_master(lambda: result)

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, in the order of ranks, on every rank."""
        values = [value] * self.world_size
        if self.distributed:
            dist.all_gather_object(values, value)
        return values

    def any_rank(self, flags: torch.Tensor) -> torch.Tensor:
        """Set in place, and return, the flags that any rank has set. flags: int32 on the device"""
        if self.distributed:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return flags

    def seed_all(self) -> None:
        """Seed every random generator of this process with seed + rank; the model is made after this."""
        torch.manual_seed(self.seed + self.rank)
        random.seed(self.seed + self.rank)
        if numpy := sys.modules.get("numpy"):
            numpy.random.seed((self.seed + self.rank) % 2**32)

    def is_true_on_any_rank(self, value: bool) -> bool:
        """Return whether `value` is True on any rank; waits for the device."""
        return bool(self.any_rank(torch.tensor(value, dtype=torch.int32, device=self.device)).item())

    def rng_state(self) -> dict[str, Any]:
        """Return the state of this process's random generators: torch's, Python's, and NumPy's where it is loaded."""
        state = {"cpu": torch.get_rng_state(), "python": random.getstate()}
        if numpy := sys.modules.get("numpy"):
            name, words, *rest = numpy.random.get_state()
            state["numpy"] = (name, torch.from_numpy(words.astype("int64")), *rest)
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.device.type == "mps":
            state["mps"] = torch.mps.get_rng_state()
        return state

    def set_rng_state(self, state: dict[str, Any]) -> None:
        """Restore the random generators; one that `state` lacks stays as it is."""
        torch.set_rng_state(state["cpu"])
        if "python" in state:
            random.setstate(state["python"])
        if "numpy" in state and (numpy := sys.modules.get("numpy")):
            name, words, *rest = state["numpy"]
            numpy.random.set_state((name, words.numpy().astype("uint32"), *rest))
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)
        if self.device.type == "mps" and "mps" in state:
            torch.mps.set_rng_state(state["mps"])

    @contextmanager
    def isolated_rng(self) -> Iterator[None]:
        """Inside, random draws start from the seed; afterwards the generators are as before."""
        outside = self.rng_state()
        self.seed_all()
        try:
            yield
        finally:
            self.set_rng_state(outside)


def resolve_device(name: str, local_rank: int | None = None) -> torch.device:
    """Return the device that `name` means on this machine; mps or cpu in place of `cuda` if there is none.

    local_rank: the process's number on its node under torchrun, where each process takes the GPU of that number
    """
    if name in ("cuda", "auto") and not torch.cuda.is_available():
        # without CUDA several processes use gloo, which has no mps backend
        found = "mps" if torch.backends.mps.is_available() and local_rank is None else "cpu"
        log.info(f"device: no CUDA device here, using {found} (--device={found} says so yourself)")
        name = found
    try:
        device = torch.device("cuda" if name == "auto" else name)
    except RuntimeError:
        raise ConfigError(f"device={name!r} is not known: wanted cuda, cuda:0, mps or cpu") from None
    if device.type == "cuda":
        device = torch.device("cuda", local_rank if local_rank is not None else device.index or 0)
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise ConfigError(f"device={device}: there are {torch.cuda.device_count()} CUDA devices here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device='mps': not available here, wanted cuda or cpu")
    if device.type not in ("cuda", "mps", "cpu"):
        raise ConfigError(f"device={name!r} is not supported: wanted cuda, mps or cpu")
    return device


def _keep_freed_memory() -> None:
    """Make glibc's malloc keep the memory that a step frees, instead of returning it to the system.

    Freeing one large block raises the size from which malloc returns blocks. It changes no number; on the CPU recipe a
    step took 4 % less time and an evaluation 8 % less (2026-11, 1 thread).
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)  # larger than 32 MB has no effect


def _notes_to_stderr(level: int) -> None:
    """Show our own notes on stderr, one line each; stdout has only the lines that nanoGPT prints."""
    for old in log.handlers[:]:
        log.removeHandler(old)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(level)
