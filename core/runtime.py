"""One process of a run: its rank, device, precision and seed."""

import gc
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, TypeVar

import torch
import torch.distributed as dist

from core.commands import command
from core.errors import ConfigError
from core.preemption import Preemption

if TYPE_CHECKING:
    from core.machine.emergency_exchange import EmergencyExchange

log = logging.getLogger("coregpt")
T = TypeVar("T")
STOP_PATIENCE_S = 5.0  # a process that is asked to stop waits for the others, which would wait for it much longer
GROUP_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what a process group needs


class Ranks(NamedTuple):
    """This process's place among the processes of a run.

    distributed: a launcher such as torchrun started it, alone or with others
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    distributed: bool = False

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Ranks":
        """Return what torchrun's variables say. Without RANK, or if it is empty or -1, the process is alone.

        Raises ConfigError if another variable that the process group needs is missing, or is no number.
        """
        given = {name: environment.get(name, "").strip() for name in GROUP_VARIABLES}
        if given["RANK"] in ("", "-1"):
            return cls()
        if missing := [name for name, value in given.items() if not value]:
            start = command("train.py", "torchrun --standalone --nproc_per_node=N")
            raise ConfigError(
                f"RANK={given['RANK']} is set, but not {', '.join(missing)}: start several processes with "
                f"`{start} ...`, or unset RANK to use one process"
            )
        given["LOCAL_RANK"] = environment.get("LOCAL_RANK", "").strip() or "0"
        numbers = {name: _number(name, given[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
        rank, world_size = numbers["RANK"], numbers["WORLD_SIZE"]
        if world_size == 0:
            raise ConfigError(
                "WORLD_SIZE='0' in the environment, wanted at least 1: let torchrun set it, or unset RANK"
            )
        if rank >= world_size:
            raise ConfigError(
                f"RANK={rank} with WORLD_SIZE={world_size}, wanted a rank from 0 to {world_size - 1}: let torchrun set "
                "both, or unset RANK to use one process"
            )
        if numbers["MASTER_PORT"] > 65535:
            raise ConfigError(f"MASTER_PORT={numbers['MASTER_PORT']} in the environment, wanted at most 65535")
        return cls(rank, numbers["LOCAL_RANK"], world_size, True)


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"{name}={text!r} in the environment, wanted a number: let torchrun set it, or unset RANK")
    return int(text)


class Runtime:
    """Sets up the process on entering and tears it down on leaving; in between it talks to the other ranks.

    start_timeout: minutes in which all processes must have joined the process group; GroupError after that
    cpu_threads:   of this process, until it leaves; None: as they are
    preemption:    a request to stop ends all processes once their group has formed, or the wait for it
    """

    def __init__(
        self,
        *,
        device: str = "cuda",
        dtype: str = "float32",
        backend: str = "nccl",
        seed: int = 1337,
        cpu_autocast: bool = False,
        start_timeout: float = 10.0,
        cpu_threads: int | None = None,
        preemption: Preemption | None = None,
    ) -> None:
        self.rank, self.local_rank, self.world_size, self.distributed = Ranks.read(os.environ)
        self.is_master = self.rank == 0
        self.seed = seed
        self.follows_earlier_group = False  # of this launch: the launcher has restarted the processes
        self.exchange: EmergencyExchange | None = None  # with the other processes of a gloo group
        self._start_timeout, self._preemption = start_timeout, preemption
        self.cpu_threads = cpu_threads
        self._has_group = False
        self._at_exit = ExitStack()
        _notes_to_stderr(logging.INFO if self.is_master else logging.ERROR)
        if not self.distributed:
            _log_idle_tasks(os.environ)

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
            self._join_group()
        if self.cpu_threads is not None:
            self._at_exit.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(self.cpu_threads)
        backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
        for backend in backends:
            self._at_exit.callback(setattr, backend, "allow_tf32", backend.allow_tf32)
            backend.allow_tf32 = True
        self.seed_all()
        if self.device.type == "cpu":
            _keep_freed_memory()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._at_exit.close()
        if self._has_group:
            gc.collect()  # a wrapped model that outlives its process group can abort the process
            dist.destroy_process_group()
        if self.exchange:
            self.exchange.close()

    def _join_group(self) -> None:
        from core.machine.process_group import Address, ProcessGroup  # PyTorch can be built without it

        preemption = self._preemption

        def give_up() -> None:
            if preemption and preemption.waited_s > STOP_PATIENCE_S:
                preemption.end_before_training()

        group = ProcessGroup(Address.read(), self.rank, self.world_size, 60 * self._start_timeout, give_up)
        self.follows_earlier_group, self._has_group = group.join(self.backend), True
        self.exchange = group.exchange
        if preemption and self.is_true_on_any_rank(preemption.requested is not None):
            self.__exit__(None, None, None)
            preemption.end_before_training()

    def leave_group(self) -> None:
        """Work alone from here on: collectives of this process take its own value and wait for nobody."""
        self.distributed = False

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


def _log_idle_tasks(environment: Mapping[str, str]) -> None:
    """Say that SLURM has several tasks, and that this process does not work with the others."""
    tasks, task = environment.get("SLURM_NTASKS", ""), environment.get("SLURM_PROCID", "0")
    if tasks.isdecimal() and int(tasks) > 1 and task == "0":
        log.warning(
            f"SLURM_NTASKS={tasks}, but this process works alone: start one task per node, and in it torchrun with one "
            "process per GPU"
        )


class _Notes(logging.StreamHandler[TextIO]):
    """Our handler of the log, which is not one that the user has added."""


def _notes_to_stderr(level: int) -> None:
    """Show our own notes on stderr, one line each; stdout has only the lines that nanoGPT prints."""
    for old in [handler for handler in log.handlers if isinstance(handler, _Notes)]:
        log.removeHandler(old)
    handler = _Notes(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(level)
