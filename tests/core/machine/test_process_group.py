"""The process group: its processes find each other, and none of an earlier start."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from benchmark.soak.campaign import start, stderr_tail, wait
from core.errors import GroupError
from core.machine.process_group import Address, ProcessGroup
from core.runtime import Runtime
from tests.core.machine.store_process import store_process


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Yield the port of a store as torchrun opens it: it lives on when the ranks are restarted."""
    yield from store_process(tmp_path)


def member(port: int, rank: int, world_size: int = 3, timeout_s: float = 20.0) -> ProcessGroup:
    return ProcessGroup(Address("127.0.0.1", port, is_own=False), rank, world_size, timeout_s)


def keys_of(port: int) -> dist.PrefixStore:
    """Return a connection to the store, as one process has it."""
    return dist.PrefixStore("coregpt", dist.TCPStore("127.0.0.1", port, is_master=False))


def agree(port: int, members: list[ProcessGroup]) -> list[tuple[str, bool]]:
    """Return what each member has agreed on, with a connection of its own."""
    keys = [keys_of(port) for _ in members]
    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(ProcessGroup._agree, members, keys))


def test_every_start_of_the_ranks_agrees_on_a_name_of_its_own(port: int) -> None:
    starts = [agree(port, [member(port, rank) for rank in range(3)]) for _ in range(2)]

    names = [{name for name, _ in agreed} for agreed in starts]
    assert [len(found) for found in names] == [1, 1]
    assert names[0] != names[1]


@pytest.mark.parametrize(("first", "is_first"), [(None, True), ("another process", False)])
def test_all_ranks_know_if_their_group_is_the_first(port: int, first: str | None, is_first: bool) -> None:
    if first:
        keys_of(port).set("first", first)

    agreed = agree(port, [member(port, rank) for rank in range(3)])

    assert [found[1] for found in agreed] == [is_first] * 3


def test_a_process_that_died_while_it_joined_is_not_counted(port: int) -> None:
    """Rank 2 has called and has died; rank 1 has died too, after it had joined another group."""
    keys_of(port).set("call/1 of 3", "dead")
    keys_of(port).set("call/2 of 3", "dead too")
    keys_of(port).set("old/dead", "joined")

    with pytest.raises(GroupError, match="nothing from ranks 1, 2;"):
        agree(port, [member(port, 0, timeout_s=0.05)])
    assert len({name for name, _ in agree(port, [member(port, rank) for rank in range(3)])}) == 1


def test_a_rank_that_restarts_alone_is_invited_again(port: int) -> None:
    def restart(rank_1: ProcessGroup, keys: Any) -> tuple[str, bool]:
        with pytest.raises(GroupError, match="a rank is missing, or another process is rank 1 too;"):
            ProcessGroup(rank_1.address, 1, 3, timeout_s=0.3)._agree(keys)
        with ThreadPoolExecutor(1) as pool:
            rank_2 = pool.submit(agree, port, [member(port, 2)])
            return rank_1._agree(keys), *rank_2.result()

    with ThreadPoolExecutor(1) as pool:
        rank_0 = pool.submit(agree, port, [member(port, 0)])
        others = restart(member(port, 1), keys_of(port))
        assert {*others, *rank_0.result()} == {others[0]}


def refusals(port: int, members: list[ProcessGroup]) -> list[str]:
    """Return the messages of the members that do not join."""

    def refusal(group: ProcessGroup) -> str:
        try:
            group._agree(keys_of(port))
        except GroupError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(members)) as pool:
        return [message for message in pool.map(refusal, members) if message]


def test_of_two_processes_with_the_same_rank_one_joins(port: int) -> None:
    members = [member(port, 0, world_size=2), *(member(port, 1, world_size=2, timeout_s=1.0) for _ in range(2))]

    (message,) = refusals(port, members)

    assert "another process is rank 1 too;" in message or "nothing from rank 0;" in message


def test_ranks_that_expect_another_number_of_ranks_do_not_meet(port: int) -> None:
    members = [member(port, 0, world_size=2, timeout_s=0.2), member(port, 1, world_size=3, timeout_s=0.2)]

    assert ["nothing from rank" in message for message in refusals(port, members)] == [True, True]


@pytest.mark.parametrize(
    ("rank", "reason"), [(0, "nothing from ranks 1, 2"), (1, "nothing from rank 0"), (2, "nothing from rank 0")]
)
def test_a_group_that_lacks_a_process_ends_in_one_message(port: int, rank: int, reason: str) -> None:
    with pytest.raises(GroupError) as raised:
        member(port, rank, timeout_s=0.3).join("gloo")

    assert str(raised.value) == (
        f"rank {rank}: the 3 processes of this run could not form a process group within start_timeout=0.005 minutes: "
        f"{reason}; start all of them again, with the same WORLD_SIZE, and a MASTER_ADDR and MASTER_PORT that every "
        "machine reaches"
    )
    assert raised.value.exit_status == 75
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("host", "reason"),
    [("127.0.0.1", "Connection refused"), ("no.such.host.invalid", r"Name or service not known|.*")],
)
def test_a_store_that_nobody_opens_is_one_message(host: str, reason: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound, but not listening: the port is refused, and nobody else gets it
        port = probe.getsockname()[1]

        with pytest.raises(GroupError, match=rf"no connection to the store at {re.escape(host)}:{port} \({reason}\);"):
            ProcessGroup(Address(host, port), 1, 2, timeout_s=0.05).join("gloo")


@pytest.mark.parametrize(
    ("rank", "reason"), [(0, "EADDRINUSE|address already in use"), (1, "no answer from a store at 127.0.0.1:")]
)
def test_a_port_that_another_program_uses_is_one_message(rank: int, reason: str) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()

        with pytest.raises(GroupError, match=f"rank {rank}: .*({reason})") as raised:
            ProcessGroup(Address("127.0.0.1", other.getsockname()[1]), rank, 2, timeout_s=0.2).join("gloo")
    assert "\n" not in str(raised.value)


def test_collectives_have_the_usual_timeout_after_the_start() -> None:
    group = ProcessGroup(Address("127.0.0.1", 0), 0, 1, timeout_s=20.0)
    group.join("gloo")
    try:
        backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
        assert backend.options._timeout == dist.constants.default_pg_timeout
    finally:
        dist.destroy_process_group()


def test_ranks_join_again_after_one_was_killed(port: int, tmp_path: Path) -> None:
    """As torchrun restarts them: with the same port, and the old addresses still in the store."""

    def work() -> None:
        with Runtime(device="cpu") as runtime:
            print(runtime.follows_earlier_group, flush=True)
            if runtime.rank == 1 and not runtime.follows_earlier_group:
                os.kill(os.getpid(), signal.SIGKILL)
            assert runtime.gather(runtime.rank) == [0, 1]

    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    statuses = []
    for _ in range(2):
        pids = [start(work, tmp_path, {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
        statuses.append(wait(pids, grace_s=20))

    assert statuses == [[1, -signal.SIGKILL], [0, 0]], stderr_tail(tmp_path)
    assert sorted((tmp_path / "stdout.txt").read_text().split()) == ["False", "False", "True", "True"]
