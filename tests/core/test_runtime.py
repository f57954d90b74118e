"""The process's surroundings: device, precision, seed, and answers that are the same on all ranks."""

import contextlib
import logging
import random
import socket
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from core.errors import ConfigError
from core.runtime import Runtime, resolve_device

no_gpu = pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="is about machines without a GPU"
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def launched(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    """Set what torchrun sets."""
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
    """Be launched as the only process of a group, so that every collective is really called."""
    launched(monkeypatch, rank=0, world_size=1)
    with Runtime(device="cpu", backend="nccl") as run:
        yield run


def test_without_a_launcher_the_run_is_one_process() -> None:
    with Runtime(device="cpu") as run:
        assert not dist.is_initialized()

    assert (run.rank, run.local_rank, run.world_size, run.is_master, run.distributed) == (0, 0, 1, True, False)


def test_a_launched_process_joins_the_group_and_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU takes gloo whatever `backend` says, as nanoGPT's default is nccl."""
    launched(monkeypatch, rank=0, world_size=1)

    with Runtime(device="cpu", backend="nccl") as run:
        assert run.distributed and dist.is_initialized()
        assert dist.get_backend() == run.backend == "gloo"
    assert not dist.is_initialized()


def test_group_is_left_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, rank=0, world_size=1)

    with pytest.raises(ZeroDivisionError), Runtime(device="cpu"):
        _ = 1 / 0

    assert not dist.is_initialized()


@pytest.mark.parametrize("failing", [False, True])
def test_what_is_to_happen_at_the_end_happens_last_given_first(monkeypatch: pytest.MonkeyPatch, failing: bool) -> None:
    """Whether the run ends well or not, and while the group is still there."""
    launched(monkeypatch, rank=0, world_size=1)
    happened = []

    with contextlib.suppress(ZeroDivisionError), Runtime(device="cpu") as run:
        for name in ("first", "second"):
            run.at_exit(lambda name=name: happened.append((name, dist.is_initialized())))  # type: ignore[misc]
        assert happened == []
        _ = 1 / (not failing)

    assert happened == [("second", True), ("first", True)]


@pytest.mark.parametrize(("rank", "seed"), [(0, 1337), (3, 1340)])
def test_each_rank_has_a_seed_of_its_own(monkeypatch: pytest.MonkeyPatch, rank: int, seed: int) -> None:
    launched(monkeypatch, rank, world_size=4)
    monkeypatch.setattr(dist, "init_process_group", lambda backend: None)  # the other three are not there
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)

    with Runtime(device="cpu", seed=1337) as run:
        drawn = torch.rand(5)

    assert run.is_master == (rank == 0) and run.world_size == 4
    assert torch.equal(drawn, torch.rand(5, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_cpu_has_neither_autocast_nor_scaler_whatever_the_dtype(dtype: str) -> None:
    run = Runtime(device="cpu", dtype=dtype)

    assert isinstance(run.autocast, nullcontext)
    assert not run.scaler.is_enabled()
    with run.autocast:
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_cpu_autocast_turns_bfloat16_on() -> None:
    run = Runtime(device="cpu", dtype="bfloat16", cpu_autocast=True)

    for _ in range(2):  # it is entered again for every micro-batch
        with run.autocast:
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert not torch.is_autocast_enabled("cpu")
    assert not run.scaler.is_enabled()


@no_gpu
@pytest.mark.parametrize("name", ["cuda", "auto"])
def test_without_a_gpu_the_cpu_takes_over_and_says_so(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = Runtime(device=name, dtype="float16")

    assert run.device == torch.device("cpu")
    assert not run.scaler.is_enabled()
    note = "device: no CUDA device here, using cpu (--device=cpu says so yourself)\n"
    assert capsys.readouterr() == ("", note)


def test_a_device_that_was_asked_for_is_taken_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
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
def test_a_device_that_is_not_there_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        resolve_device(name)


def test_notes_of_other_ranks_stay_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("coregpt")
    for rank in (0, 1):
        launched(monkeypatch, rank, world_size=2)
        Runtime(device="cpu")
        log.info(f"a note of rank {rank}")
        log.error(f"an error of rank {rank}")

    assert capsys.readouterr() == ("", "a note of rank 0\nan error of rank 0\nan error of rank 1\n")


def test_a_second_run_does_not_say_everything_twice(capsys: pytest.CaptureFixture[str]) -> None:
    Runtime(device="cpu")
    Runtime(device="cpu")
    logging.getLogger("coregpt").info("once")

    assert capsys.readouterr().err == "once\n"
    (handler,) = logging.getLogger("coregpt").handlers
    assert handler.stream is sys.stderr  # type: ignore[attr-defined]


@pytest.mark.parametrize(("world_size", "steps", "share"), [(1, 5, 5), (4, 40, 10), (5, 5, 1)])
def test_micro_batches_are_shared_evenly(
    monkeypatch: pytest.MonkeyPatch, world_size: int, steps: int, share: int
) -> None:
    launched(monkeypatch, 0, world_size)

    assert Runtime(device="cpu").micro_steps_per_rank(steps) == share


@pytest.mark.parametrize(("world_size", "steps"), [(4, 6), (8, 4)])
def test_micro_batches_that_do_not_divide_are_refused(
    monkeypatch: pytest.MonkeyPatch, world_size: int, steps: int
) -> None:
    launched(monkeypatch, 0, world_size)

    message = f"gradient_accumulation_steps={steps} cannot be divided evenly among {world_size} processes: choose a "
    with pytest.raises(ConfigError, match=f"^{message}multiple of {world_size}$"):
        Runtime(device="cpu").micro_steps_per_rank(steps)


def check_collectives(run: Runtime) -> None:
    losses = {"train": torch.tensor(1.5), "val": torch.tensor(2.5)}
    assert run.on_master(lambda: losses) == losses
    assert run.gather({"rank": run.rank}) == [{"rank": 0}]
    flags = torch.tensor([0, 1, 0], dtype=torch.int32)
    assert run.any_rank(flags) is flags
    assert flags.tolist() == [0, 1, 0]


def test_one_process_agrees_with_itself() -> None:
    check_collectives(Runtime(device="cpu"))


def test_a_group_of_one_agrees_with_itself(group_of_one: Runtime) -> None:
    check_collectives(group_of_one)


def test_only_the_master_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute() -> Any:
        raise AssertionError("called on rank 1")

    launched(monkeypatch, rank=1, world_size=2)
    received = []
    monkeypatch.setattr(dist, "broadcast_object_list", lambda box, src: received.append((list(box), src)))

    Runtime(device="cpu").on_master(compute)

    assert received == [([None, None], 0)]


def test_random_state_is_continued_where_it_was_found() -> None:
    run = Runtime(device="cpu")
    state = run.rng_state()
    first = torch.rand(5), torch.randint(100, (5,))

    run.set_rng_state(state)

    assert torch.equal(torch.rand(5), first[0]) and torch.equal(torch.randint(100, (5,)), first[1])
    assert list(state) == ["cpu", "python", "numpy"]


# a machine with GPUs, as far as one without can tell


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("name", "local_rank", "index"), [("cuda", None, 0), ("auto", None, 0), ("cuda:1", None, 1), ("cuda", 1, 1)]
)
def test_a_cuda_device_has_a_number(two_gpus: None, name: str, local_rank: int | None, index: int) -> None:
    """torch.cuda.set_device refuses a device without one."""
    assert resolve_device(name, local_rank) == torch.device("cuda", index)


def test_several_processes_do_not_fall_back_to_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)

    assert resolve_device("cuda", None).type == "mps"
    assert resolve_device("cuda", 0).type == "cpu"


def test_cpu_autocast_is_for_bfloat16_alone() -> None:
    assert isinstance(Runtime(device="cpu", dtype="float16", cpu_autocast=True).autocast, nullcontext)
    assert isinstance(Runtime(device="cpu", dtype="bfloat16", cpu_autocast=True).autocast, torch.amp.autocast)


# random generators of every kind


def draw_everywhere() -> list[Any]:
    return [torch.rand(3).tolist(), random.random(), random.gauss(0, 1), np.random.rand(2).tolist(), np.random.randn()]


def test_every_kind_of_random_generator_goes_on_where_it_was_saved() -> None:
    with Runtime(device="cpu") as run:
        draw_everywhere()
        state = run.rng_state()
        drawn = draw_everywhere()

        run.set_rng_state(state)

        assert draw_everywhere() == drawn


def test_the_saved_state_is_plain_enough_for_a_checkpoint(tmp_path: Path) -> None:
    with Runtime(device="cpu") as run:
        torch.save(run.rng_state(), tmp_path / "rng.pt")
        drawn = draw_everywhere()

        run.set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))

        assert draw_everywhere() == drawn


def test_every_kind_is_seeded() -> None:
    drawn = []
    for seed in (1, 1, 2):
        draw_everywhere()
        with Runtime(device="cpu", seed=seed):
            drawn.append(draw_everywhere())

    assert drawn[0] == drawn[1]
    assert all(ours != theirs for ours, theirs in zip(drawn[0], drawn[2], strict=True))


def test_draws_in_isolation_start_from_the_seed_and_leave_no_trace() -> None:
    with Runtime(device="cpu") as run:
        draw_everywhere()
        state = run.rng_state()
        expected = draw_everywhere()
        run.set_rng_state(state)

        with run.isolated_rng():
            first = draw_everywhere()
        with pytest.raises(ZeroDivisionError), run.isolated_rng():
            assert draw_everywhere() == first
            _ = 1 / 0

        assert draw_everywhere() == expected


# flags and errors on all ranks


@pytest.mark.parametrize("value", [True, False])
def test_a_single_process_agrees_with_itself(value: bool) -> None:
    assert Runtime(device="cpu").is_true_on_any_rank(value) is value


def test_what_every_rank_computes_is_rank_0s_result_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_what_fails_on_the_master_fails_on_every_rank(alone: bool, request: pytest.FixtureRequest) -> None:
    run = Runtime(device="cpu") if alone else request.getfixturevalue("group_of_one")

    def fail() -> None:
        raise ConfigError("out_dir is in use")

    with pytest.raises(ConfigError, match="^out_dir is in use$"):
        run.on_master(fail)


def test_another_rank_raises_what_the_master_met(monkeypatch: pytest.MonkeyPatch) -> None:
    def broadcast(box: list[Any], src: int) -> None:
        box[:] = [None, ConfigError("out_dir is in use")]

    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    launched(monkeypatch, rank=1, world_size=2)

    with pytest.raises(ConfigError, match="^out_dir is in use$"):
        Runtime(device="cpu").on_master(lambda: pytest.fail("computed on rank 1"))
