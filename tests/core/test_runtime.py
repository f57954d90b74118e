"""Runtime: device, precision, seed, and values that are the same on all ranks."""

import contextlib
import logging
import os
import random
import re
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

import core.runtime
from benchmark.soak.campaign import ranks, start, wait
from core.errors import TRY_AGAIN, ConfigError, GroupError, PreemptedError
from core.preemption import Preemption
from core.runtime import Ranks, Runtime, resolve_device

no_gpu = pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="for machines without a GPU"
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def launched(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    """Set torchrun's environment variables."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    names = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world_size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))


@pytest.fixture
def group_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """Return the runtime of a group of one process, which really calls every collective."""
    launched(monkeypatch, rank=0, world_size=1)
    with Runtime(device="cpu", backend="nccl") as runtime:
        yield runtime


def test_without_a_launcher_the_run_is_one_process() -> None:
    with Runtime(device="cpu") as runtime:
        assert not dist.is_initialized()

    assert (runtime.rank, runtime.local_rank, runtime.world_size) == (0, 0, 1)
    assert (runtime.is_master, runtime.distributed) == (True, False)


GROUP = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "4"},
        {"WORLD_SIZE": "4", "LOCAL_RANK": "3", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"},
        {**GROUP, "RANK": ""},
        {**GROUP, "RANK": " "},
        {**GROUP, "RANK": "-1"},
        {"LOCAL_RANK": "x"},
    ],
)
def test_without_a_rank_the_process_is_alone_as_in_nanogpt(environment: dict[str, str]) -> None:
    assert Ranks.read(environment) == (0, 0, 1, False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (1, 1, 4, True)),
        ({"LOCAL_RANK": ""}, (1, 0, 4, True)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, (0, 0, 1, True)),
        ({"RANK": " 3 "}, (3, 1, 4, True)),
    ],
)
def test_ranks_are_read_as_torchrun_sets_them(changes: dict[str, str], expected: tuple[Any, ...]) -> None:
    assert Ranks.read({**GROUP, **changes}) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MASTER_ADDR": ""}, "RANK=1 is set, but not MASTER_ADDR: start several processes with `torchrun "),
        ({"WORLD_SIZE": "", "MASTER_ADDR": "", "MASTER_PORT": " "}, "but not WORLD_SIZE, MASTER_ADDR, MASTER_PORT: "),
        ({"RANK": "one"}, "RANK='one' in the environment, wanted a number"),
        ({"RANK": "-2"}, "RANK='-2' in the environment, wanted a number"),
        ({"WORLD_SIZE": "4.0"}, "WORLD_SIZE='4.0' in the environment, wanted a number"),
        ({"LOCAL_RANK": "a"}, "LOCAL_RANK='a' in the environment, wanted a number"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT='http' in the environment, wanted a number"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999 in the environment, wanted at most 65535"),
        ({"RANK": "4"}, "RANK=4 with WORLD_SIZE=4, wanted a rank from 0 to 3"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0' in the environment, wanted at least 1"),
    ],
)
def test_an_incomplete_group_is_refused_in_one_message(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Ranks.read({**GROUP, **changes})


@pytest.mark.parametrize(("tasks", "task", "warns"), [("4", "0", True), ("4", "1", False), ("1", "0", False)])
def test_idle_tasks_of_slurm_are_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tasks: str, task: str, warns: bool
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", tasks)
    monkeypatch.setenv("SLURM_PROCID", task)
    Runtime(device="cpu")
    assert [message.startswith("SLURM_NTASKS=4, but this process works alone") for message in caplog.messages] == (
        [True] if warns else []
    )


def test_tasks_of_slurm_that_torchrun_started_are_not_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    launched(monkeypatch, rank=0, world_size=1)
    Runtime(device="cpu")
    assert caplog.messages == []


def test_a_launched_process_joins_the_group_and_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the backend is gloo whatever `backend` is: nanoGPT's default is nccl."""
    launched(monkeypatch, rank=0, world_size=1)

    with Runtime(device="cpu", backend="nccl") as runtime:
        assert runtime.distributed and dist.is_initialized()
        assert dist.get_backend() == runtime.backend == "gloo"
    assert not dist.is_initialized()


def test_a_group_that_does_not_form_within_start_timeout_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, rank=0, world_size=2)

    with pytest.raises(GroupError, match=r"within start_timeout=0\.001 minutes: nothing from rank 1;"):
        Runtime(device="cpu", start_timeout=0.001).__enter__()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_request_to_stop_ends_the_wait_for_other_ranks(tmp_path: Path) -> None:
    """When torchrun ends the ranks because one is dead, the others may be waiting for it."""

    def work() -> None:
        core.runtime.STOP_PATIENCE_S = 0.2
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        with Preemption() as preemption, Runtime(device="cpu", preemption=preemption):
            pass

    group = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}

    assert wait([start(work, tmp_path, group)]) == [TRY_AGAIN]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_request_to_stop_one_rank_ends_all_once_the_group_has_formed(tmp_path: Path) -> None:
    """The other rank would wait for the one that left until start_timeout."""

    def work() -> None:
        is_told = os.environ["RANK"] == "0"
        if not is_told:
            time.sleep(0.3)  # it comes while rank 0 waits for it, after the signal
        with Preemption() as preemption:
            if is_told:
                signal.raise_signal(signal.SIGTERM)
            with pytest.raises(PreemptedError, match="SIGTERM before" if is_told else "a signal to another process"):
                Runtime(device="cpu", preemption=preemption).__enter__()
        assert not dist.is_initialized()

    assert ranks(work, 2, tmp_path, limit_s=20) == [0, 0]


def test_the_group_is_destroyed_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, rank=0, world_size=1)

    with pytest.raises(ZeroDivisionError), Runtime(device="cpu"):
        _ = 1 / 0

    assert not dist.is_initialized()


def test_unreachable_objects_are_freed_before_the_group_is_destroyed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self

    launched(monkeypatch, rank=0, world_size=1)
    freed: list[bool] = []
    with Runtime(device="cpu"):
        weakref.finalize(Cycle(), lambda: freed.append(dist.is_initialized()))

    assert freed == [True]


@pytest.mark.parametrize("before", [False, True])
def test_tf32_is_allowed_inside_and_as_before_outside(before: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = before

    with Runtime(device="cpu"):
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("failing", [False, True])
def test_exit_functions_run_at_the_end_in_reverse_order(monkeypatch: pytest.MonkeyPatch, failing: bool) -> None:
    """With and without an error, and before the process group is destroyed."""
    launched(monkeypatch, rank=0, world_size=1)
    calls = []

    with contextlib.suppress(ZeroDivisionError), Runtime(device="cpu") as runtime:
        for name in ("first", "second"):
            runtime.at_exit(lambda name=name: calls.append((name, dist.is_initialized())))  # type: ignore[misc]
        assert calls == []
        _ = 1 / (not failing)

    assert calls == [("second", True), ("first", True)]


@pytest.mark.parametrize(("rank", "seed"), [(0, 1337), (3, 1340)])
def test_each_rank_has_its_own_seed(monkeypatch: pytest.MonkeyPatch, rank: int, seed: int) -> None:
    launched(monkeypatch, rank, world_size=4)
    monkeypatch.setattr(Runtime, "_join_group", lambda runtime: None)  # the test starts no other ranks
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)

    with Runtime(device="cpu", seed=1337) as runtime:
        drawn = torch.rand(5)

    assert runtime.is_master == (rank == 0) and runtime.world_size == 4
    assert torch.equal(drawn, torch.rand(5, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_cpu_has_neither_autocast_nor_scaler_for_any_dtype(dtype: str) -> None:
    runtime = Runtime(device="cpu", dtype=dtype)

    assert isinstance(runtime.autocast, nullcontext)
    assert not runtime.scaler.is_enabled()
    with runtime.autocast:
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_cpu_autocast_turns_bfloat16_on() -> None:
    runtime = Runtime(device="cpu", dtype="bfloat16", cpu_autocast=True)

    for _ in range(2):  # the step enters it again for every micro-batch
        with runtime.autocast:
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert not torch.is_autocast_enabled("cpu")
    assert not runtime.scaler.is_enabled()


@no_gpu
@pytest.mark.parametrize("name", ["cuda", "auto"])
def test_without_a_gpu_the_cpu_is_used_with_a_note(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runtime = Runtime(device=name, dtype="float16")

    assert runtime.device == torch.device("cpu")
    assert not runtime.scaler.is_enabled()
    note = "device: no CUDA device here, using cpu (--device=cpu says so yourself)\n"
    assert capsys.readouterr() == ("", note)


def test_a_requested_device_is_used_without_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    assert Runtime(device="cpu").device == torch.device("cpu")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device='gpu' is not known: wanted cuda, cuda:0, mps or cpu"),
        ("", "device='' is not known"),
        ("cuda:x", "device='cuda:x' is not known"),
        ("meta", "device='meta' is not supported: wanted cuda, mps or cpu"),
        pytest.param("cuda:9", "device=cuda:9: there are 0 CUDA devices here", marks=no_gpu),
        pytest.param("cuda:0", "device=cuda:0: there are 0 CUDA devices here", marks=no_gpu),
        pytest.param("mps", "device='mps': not available here, wanted cuda or cpu", marks=no_gpu),
    ],
)
def test_an_unknown_or_missing_device_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        resolve_device(name)


def test_notes_of_other_ranks_are_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("coregpt")
    for rank in (0, 1):
        launched(monkeypatch, rank, world_size=2)
        Runtime(device="cpu")
        log.info(f"a note of rank {rank}")
        log.error(f"an error of rank {rank}")

    assert capsys.readouterr() == ("", "a note of rank 0\nan error of rank 0\nan error of rank 1\n")


def test_a_second_runtime_does_not_print_notes_twice(capsys: pytest.CaptureFixture[str]) -> None:
    Runtime(device="cpu")
    Runtime(device="cpu")
    logging.getLogger("coregpt").info("once")

    assert capsys.readouterr().err == "once\n"
    (handler,) = logging.getLogger("coregpt").handlers
    assert handler.stream is sys.stderr  # type: ignore[attr-defined]


def test_a_handler_that_the_user_has_added_stays() -> None:
    log, users = logging.getLogger("coregpt"), logging.NullHandler()
    log.addHandler(users)
    try:
        Runtime(device="cpu")
        assert users in log.handlers and len(log.handlers) == 2
    finally:
        log.removeHandler(users)


@pytest.mark.parametrize(("world_size", "steps", "expected"), [(1, 5, 5), (4, 40, 10), (5, 5, 1)])
def test_micro_batches_are_divided_evenly_among_ranks(
    monkeypatch: pytest.MonkeyPatch, world_size: int, steps: int, expected: int
) -> None:
    launched(monkeypatch, 0, world_size)

    assert Runtime(device="cpu").micro_steps_per_rank(steps) == expected


@pytest.mark.parametrize(("world_size", "steps"), [(4, 6), (8, 4)])
def test_micro_batches_that_do_not_divide_evenly_are_refused(
    monkeypatch: pytest.MonkeyPatch, world_size: int, steps: int
) -> None:
    launched(monkeypatch, 0, world_size)

    message = f"gradient_accumulation_steps={steps} cannot be divided evenly among {world_size} processes: choose a "
    with pytest.raises(ConfigError, match=f"^{message}multiple of {world_size}$"):
        Runtime(device="cpu").micro_steps_per_rank(steps)


def check_collectives(runtime: Runtime) -> None:
    losses = {"train": torch.tensor(1.5), "val": torch.tensor(2.5)}
    assert runtime.on_master(lambda: losses) == losses
    assert runtime.gather({"rank": runtime.rank}) == [{"rank": 0}]
    flags = torch.tensor([0, 1, 0], dtype=torch.int32)
    assert runtime.any_rank(flags) is flags
    assert flags.tolist() == [0, 1, 0]


def test_collectives_of_one_process_return_its_own_values() -> None:
    check_collectives(Runtime(device="cpu"))


def test_collectives_of_a_group_of_one_return_its_own_values(group_of_one: Runtime) -> None:
    check_collectives(group_of_one)


def test_on_master_calls_the_function_on_rank_0_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute() -> Any:
        raise AssertionError("called on rank 1")

    launched(monkeypatch, rank=1, world_size=2)
    received = []
    monkeypatch.setattr(dist, "broadcast_object_list", lambda box, src: received.append((list(box), src)))

    Runtime(device="cpu").on_master(compute)

    assert received == [([None, None], 0)]


def test_set_rng_state_restores_the_state_of_torch() -> None:
    runtime = Runtime(device="cpu")
    state = runtime.rng_state()
    first = torch.rand(5), torch.randint(100, (5,))

    runtime.set_rng_state(state)

    assert torch.equal(torch.rand(5), first[0]) and torch.equal(torch.randint(100, (5,)), first[1])
    assert list(state) == ["cpu", "python", "numpy"]


# a machine with GPUs, simulated


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("name", "local_rank", "index"), [("cuda", None, 0), ("auto", None, 0), ("cuda:1", None, 1), ("cuda", 1, 1)]
)
def test_a_cuda_device_has_an_index(two_gpus: None, name: str, local_rank: int | None, index: int) -> None:
    """torch.cuda.set_device refuses a device without an index."""
    assert resolve_device(name, local_rank) == torch.device("cuda", index)


def test_several_processes_do_not_fall_back_to_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)

    assert resolve_device("cuda", None).type == "mps"
    assert resolve_device("cuda", 0).type == "cpu"


def test_cpu_autocast_is_for_bfloat16_only() -> None:
    assert isinstance(Runtime(device="cpu", dtype="float16", cpu_autocast=True).autocast, nullcontext)
    assert isinstance(Runtime(device="cpu", dtype="bfloat16", cpu_autocast=True).autocast, torch.amp.autocast)


# random generators of every kind


def draw_from_all_generators() -> list[Any]:
    return [torch.rand(3).tolist(), random.random(), random.gauss(0, 1), np.random.rand(2).tolist(), np.random.randn()]


def test_set_rng_state_restores_every_random_generator() -> None:
    with Runtime(device="cpu") as runtime:
        draw_from_all_generators()
        state = runtime.rng_state()
        drawn = draw_from_all_generators()

        runtime.set_rng_state(state)

        assert draw_from_all_generators() == drawn


def test_the_rng_state_can_be_loaded_with_weights_only(tmp_path: Path) -> None:
    with Runtime(device="cpu") as runtime:
        torch.save(runtime.rng_state(), tmp_path / "rng.pt")
        drawn = draw_from_all_generators()

        runtime.set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))

        assert draw_from_all_generators() == drawn


def test_every_random_generator_is_seeded() -> None:
    drawn = []
    for seed in (1, 1, 2):
        draw_from_all_generators()
        with Runtime(device="cpu", seed=seed):
            drawn.append(draw_from_all_generators())

    assert drawn[0] == drawn[1]
    assert all(ours != theirs for ours, theirs in zip(drawn[0], drawn[2], strict=True))


def test_isolated_rng_starts_from_the_seed_and_restores_the_state() -> None:
    with Runtime(device="cpu") as runtime:
        draw_from_all_generators()
        state = runtime.rng_state()
        expected = draw_from_all_generators()
        runtime.set_rng_state(state)

        with runtime.isolated_rng():
            first = draw_from_all_generators()
        with pytest.raises(ZeroDivisionError), runtime.isolated_rng():
            assert draw_from_all_generators() == first
            _ = 1 / 0

        assert draw_from_all_generators() == expected


# flags and errors on all ranks


@pytest.mark.parametrize("value", [True, False])
def test_is_true_on_any_rank_returns_the_value_of_a_single_process(value: bool) -> None:
    assert Runtime(device="cpu").is_true_on_any_rank(value) is value


def test_a_flag_is_1_if_any_of_two_ranks_has_set_it(tmp_path: Path) -> None:
    def work() -> None:
        with Runtime(device="cpu") as runtime:
            flags = torch.tensor([0, runtime.rank, 1], dtype=torch.int32)
            assert runtime.any_rank(flags).tolist() == [0, 1, 1]

    assert ranks(work, folder=tmp_path) == [0, 0]


def test_on_every_rank_returns_rank_0s_result_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def broadcast(box: list[Any], src: int) -> None:
        box[:] = ["rank 0's", None]

    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    launched(monkeypatch, rank=1, world_size=2)
    calls = []

    assert Runtime(device="cpu").on_every_rank(lambda: calls.append(1)) == "rank 0's"
    assert calls == [1]
    monkeypatch.delenv("RANK")
    assert Runtime(device="cpu").on_every_rank(lambda: 7) == 7


@pytest.mark.parametrize("alone", [False, True])
def test_an_error_on_the_master_is_raised(alone: bool, request: pytest.FixtureRequest) -> None:
    runtime = Runtime(device="cpu") if alone else request.getfixturevalue("group_of_one")

    def fail() -> None:
        raise ConfigError("out_dir is in use")

    with pytest.raises(ConfigError, match="^out_dir is in use$"):
        runtime.on_master(fail)


def test_another_rank_raises_the_error_of_the_master(monkeypatch: pytest.MonkeyPatch) -> None:
    def broadcast(box: list[Any], src: int) -> None:
        box[:] = [None, ConfigError("out_dir is in use")]

    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    launched(monkeypatch, rank=1, world_size=2)

    with pytest.raises(ConfigError, match="^out_dir is in use$"):
        Runtime(device="cpu").on_master(lambda: pytest.fail("computed on rank 1"))


def test_threads_are_set_inside_and_as_before_outside() -> None:
    before = torch.get_num_threads()
    with core.Runtime(device="cpu", cpu_threads=before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
