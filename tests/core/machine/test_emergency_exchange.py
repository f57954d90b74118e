"""What processes send each other when one of them has failed; each test runs real ranks of a gloo group."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmark.soak.campaign import ranks, stderr_tail
from core.errors import GroupError
from core.machine import emergency_exchange
from core.machine.emergency_exchange import EmergencyExchange, connected, open_sockets
from core.machine.process_group import Address
from core.runtime import Runtime
from tests.core.machine.store_process import store_process

Work = Callable[[Runtime, EmergencyExchange], None]


@pytest.fixture
def launcher_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Yield the port of a store as torchrun opens it."""
    yield from store_process(tmp_path_factory.mktemp("store"))


def run(folder: Path, work: Work, world_size: int = 2) -> list[int]:
    """Run `work(runtime, exchange)` on all ranks, and return their exit statuses."""

    def on_a_rank() -> None:
        runtime = Runtime(device="cpu").__enter__()
        assert runtime.exchange is not None
        runtime.gather(None)  # all ranks have made their exchange
        work(runtime, runtime.exchange)
        runtime.__exit__(None, None, None)

    return ranks(on_a_rank, world_size, folder)


def blocked_collective(runtime: Runtime) -> str:
    """Wait in a collective that another rank never joins. Return the error that ends it."""
    try:
        runtime.any_rank(torch.tensor(0, dtype=torch.int32))
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_rank_ends_the_collectives_of_the_others(tmp_path: Path, failing: int) -> None:
    def work(runtime: Runtime, exchange: EmergencyExchange) -> None:
        if runtime.rank == failing:
            time.sleep(0.1)
        else:
            assert "gloo" in blocked_collective(runtime)
        size = 20 * 2**20 if runtime.rank == 1 else 3  # the store takes 8 MB at once
        assert exchange.send(bytes([runtime.rank]) * size) == failing
        if runtime.rank == 0:
            assert exchange.collect() == [b"\0" * 3, b"\1" * 20 * 2**20, b"\2" * 3]
            exchange.announce_end()
        else:
            assert exchange.wait_for_end()

    started = time.monotonic()
    assert run(tmp_path, work, 3) == [0, 0, 0], stderr_tail(tmp_path, 30)
    assert time.monotonic() - started < emergency_exchange.SILENCE_S / 2


def test_a_rank_that_was_killed_is_not_waited_for(tmp_path: Path) -> None:
    def work(runtime: Runtime, exchange: EmergencyExchange) -> None:
        if runtime.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        assert blocked_collective(runtime)
        exchange.send(b"")
        if runtime.rank == 0:
            with pytest.raises(GroupError, match="^no answer from rank 1$"):
                exchange.collect()
            exchange.announce_end()
        else:
            assert exchange.wait_for_end()

    started = time.monotonic()
    assert run(tmp_path, work, 3) == [0, -signal.SIGKILL, 0], stderr_tail(tmp_path, 30)
    assert time.monotonic() - started < emergency_exchange.SILENCE_S / 2


@pytest.mark.parametrize("is_own", [True, False], ids=["store of rank 0", "store of the launcher"])
def test_rank_0_that_was_killed_is_not_waited_for(
    tmp_path: Path, launcher_port: int, is_own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(runtime: Runtime, exchange: EmergencyExchange) -> None:
        if runtime.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        assert blocked_collective(runtime)
        assert exchange.send(b"") == (None if is_own else 1)
        assert not exchange.wait_for_end()

    if not is_own:
        monkeypatch.setattr(Address, "read", lambda: Address("127.0.0.1", launcher_port, is_own=False))
    started = time.monotonic()
    assert run(tmp_path, work) == [-signal.SIGKILL, 0], stderr_tail(tmp_path, 30)
    assert time.monotonic() - started < emergency_exchange.SILENCE_S / 2


def test_a_rank_that_answers_later_than_another_is_waited_for(tmp_path: Path) -> None:
    def work(runtime: Runtime, exchange: EmergencyExchange) -> None:
        if runtime.rank == 2:
            time.sleep(2 * emergency_exchange.MOMENT_S)
        exchange.send(bytes([runtime.rank]))
        if runtime.rank == 0:
            assert exchange.collect() == [b"\0", b"\1", b"\2"]
            exchange.announce_end()
        else:
            assert exchange.wait_for_end()

    assert run(tmp_path, work, 3) == [0, 0, 0], stderr_tail(tmp_path, 30)


def test_a_silent_rank_is_waited_for_until_the_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emergency_exchange, "SILENCE_S", 0.3)

    def work(runtime: Runtime, exchange: EmergencyExchange) -> None:
        if runtime.rank > 0:
            time.sleep(1)  # computes, in no collective
            return
        exchange.send(b"")
        started = time.monotonic()
        with pytest.raises(GroupError, match="^no answer from ranks 1, 2$"):
            exchange.collect()
        assert time.monotonic() - started >= 0.3

    assert run(tmp_path, work, 3) == [0, 0, 0], stderr_tail(tmp_path, 30)


def test_connections_are_told_from_other_sockets() -> None:
    before = open_sockets()
    local, other = socket.socketpair()
    with socket.socket() as listener, socket.socket() as client, local, other:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        with listener.accept()[0] as server:
            new = open_sockets() - before
            assert {sock.fileno() for sock in (listener, client, local, server)} <= {number for number, _ in new}
            assert connected(new, without_port=0) == sorted([client.fileno(), server.fileno()])
            assert connected(new, without_port=client.getpeername()[1]) == []
