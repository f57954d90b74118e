"""How the processes of a run join one process group, also after a launcher has restarted them."""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple, NoReturn

import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.constants import default_pg_timeout
from torch.distributed.distributed_c10d import _set_pg_timeout

from core.errors import GroupError
from core.machine.emergency_exchange import EmergencyExchange, connected, open_sockets

LONGEST_PAUSE_S = 0.1  # between two looks at the store; signals are handled in between


class Address(NamedTuple):
    """Where the store of a process group is; as text: `host:port`.

    is_own: rank 0 opens the store itself; else the launcher has opened it, and keeps it over restarts
    """

    host: str
    port: int
    is_own: bool = True

    @classmethod
    def read(cls) -> "Address":
        """Return what the launcher has put into the environment."""
        is_own = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        return cls(os.environ["MASTER_ADDR"].strip(), int(os.environ["MASTER_PORT"]), is_own)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class ProcessGroup:
    """Makes torch's default process group of the processes that are alive now.

    After a restart torchrun keeps its store, with the addresses of processes that are dead. So every group has keys of
    its own there: rank 0 chooses a new name for the group and gives it to the processes that answer. It does not use
    the number of restarts, which torchrun counts on each node alone.

    timeout_s: seconds, from now, in which the group must form
    give_up:   called again and again while this process waits; raises an exception to end the wait
    """

    def __init__(
        self,
        address: Address,
        rank: int,
        world_size: int,
        timeout_s: float,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.address = address
        self.rank = rank
        self.world_size = world_size
        self.timeout_s = timeout_s
        self.give_up = give_up
        self.exchange: EmergencyExchange | None = None  # once the group is made, of gloo's connections only
        self._deadline = time.monotonic() + timeout_s

    def join(self, backend: str) -> bool:
        """Make the group. Return whether an earlier process of rank 0 has made one with the same store.

        Raises GroupError if the group does not form in time.
        """
        try:
            store = self._connect()
            name, is_first = self._agree(PrefixStore("coregpt", store))
            seconds = max(self._deadline - time.monotonic(), 1)
            # gloo connects to the other processes in this call, with the timeout that its collectives have later
            timeout = timedelta(seconds=seconds) if backend == "gloo" else None
            group_store = PrefixStore(f"coregpt/{name}", store)
            before = open_sockets()
            dist.init_process_group(
                backend, store=group_store, rank=self.rank, world_size=self.world_size, timeout=timeout
            )
            if backend == "gloo":
                _set_pg_timeout(default_pg_timeout)
                self.exchange = self._make_exchange(group_store, open_sockets() - before)
            store.set_timeout(default_pg_timeout)
        except RuntimeError as error:  # torch's errors of the store, of the network and of gloo
            if isinstance(error, GroupError):
                raise
            self._fail(str(error).splitlines()[0])
        return not is_first

    def _make_exchange(self, store: Store, new: set[tuple[int, int]]) -> EmergencyExchange | None:
        """Return the exchange, made of the sockets that are new since gloo connected; None if some are not found."""
        connections = connected(new, without_port=self.address.port)
        if len(connections) != self.world_size - 1:
            return None
        return EmergencyExchange(PrefixStore("emergency", store), self.rank, self.world_size, connections)

    def _connect(self) -> Store:
        """Return the store, which rank 0 opens unless the launcher has."""
        opens = self.rank == 0 and self.address.is_own
        if not opens:
            self._wait_until_open()
        made: list[Store | Exception] = []

        def make() -> None:
            timeout = timedelta(seconds=self.timeout_s)
            use_libuv = os.environ.get("USE_LIBUV", "1") == "1"  # as torch reads it
            try:
                store = TCPStore(
                    *self.address[:2],
                    None,
                    opens,
                    timeout,
                    wait_for_workers=False,
                    multi_tenant=True,
                    use_libuv=use_libuv,
                )
            except Exception as error:
                made.append(error)
            else:
                made.append(store)

        # in a thread: if another program has this port, torch waits for its answer without end
        threading.Thread(target=make, daemon=True).start()
        silent = f"no answer from a store at {self.address}, another program may use this port"
        self._wait(lambda: bool(made), lambda: silent)
        if isinstance(made[0], Exception):
            raise made[0]
        return made[0]

    def _wait_until_open(self) -> None:
        """Wait for the port of the store; torch would wait too, with a page of its own messages."""
        why = ""

        def is_open() -> bool:
            nonlocal why
            try:
                seconds = max(self._deadline - time.monotonic(), 0.01)
                socket.create_connection((self.address.host, self.address.port), timeout=min(seconds, 5)).close()
            except OSError as error:
                why = error.strerror or str(error)
                return False
            return True

        self._wait(is_open, lambda: f"no connection to the store at {self.address} ({why})")

    def _agree(self, store: Store) -> tuple[str, bool]:
        """Return the name of the group, the same on all ranks, and whether it is the first group with this store."""
        return self._invite(store) if self.rank == 0 else self._follow(store)

    def _invite(self, store: Store) -> tuple[str, bool]:
        """Choose a name, give it to every process that calls, and wait until a living process of each rank has it."""
        name = uuid.uuid4().hex
        ranks = range(1, self.world_size)
        invited: dict[int, str] = {}  # by rank: the call that was answered

        def joined(rank: int) -> bool:
            key = self._call_key(rank)
            if not store.check([key]):
                return False
            call = store.get(key).decode()
            if invited.get(rank) != call:  # it may be the call of a dead process, which nobody answers
                invited[rank] = call
                store.set(f"invitation/{call}", name)
            return bool(store.check([f"{name}/{call}"]))

        def missing() -> str:
            late = [str(rank) for rank in ranks if not joined(rank)]
            return f"nothing from rank{'s' if len(late) > 1 else ''} {', '.join(late)}" if late else "a rank came late"

        self._wait(lambda: all([joined(rank) for rank in ranks]), missing)
        me = f"{socket.gethostname()} {os.getpid()}"
        is_first = store.compare_set("first", "", me).decode() == me
        for call in invited.values():
            store.set(f"complete/{call}", "first" if is_first else "later")
        return name, is_first

    def _follow(self, store: Store) -> tuple[str, bool]:
        """Call rank 0, and wait for the name that it gives to this very process."""
        call = uuid.uuid4().hex
        store.set(self._call_key(self.rank), call)
        self._wait(lambda: store.check([f"invitation/{call}"]), lambda: "nothing from rank 0")
        name = store.get(f"invitation/{call}").decode()
        store.set(f"{name}/{call}", "joined")
        unfinished = f"a rank is missing, or another process is rank {self.rank} too"
        self._wait(lambda: store.check([f"complete/{call}"]), lambda: unfinished)
        return name, store.get(f"complete/{call}") == b"first"

    def _call_key(self, rank: int) -> str:
        """Return the key for the calls of a rank: processes that expect another number of ranks do not meet."""
        return f"call/{rank} of {self.world_size}"

    def _wait(self, is_done: Callable[[], bool], reason: Callable[[], str]) -> None:
        """Wait until `is_done()`. Raises GroupError with `reason()` if the time is up before that."""
        pause = 0.001
        while not is_done():
            if time.monotonic() >= self._deadline:
                self._fail(reason())
            self.give_up()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _fail(self, reason: str) -> NoReturn:
        raise GroupError(
            f"rank {self.rank}: the {self.world_size} processes of this run could not form a process group within "
            f"start_timeout={self.timeout_s / 60:g} minutes: {reason}; start all of them again, with the same "
            "WORLD_SIZE, and a MASTER_ADDR and MASTER_PORT that every machine reaches"
        ) from None
