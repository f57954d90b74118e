"""What the processes of a run send each other when an error has ended one of them, and collectives would never end."""

import os
import select
import socket
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta

from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.constants import default_pg_timeout

from core.errors import GroupError

SILENCE_S = 30.0  # a process that has sent nothing for so long does not answer
MOMENT_S = 1.0  # in which a process that is alive answers, if it is in a collective
PART_BYTES = 4 * 2**20  # of a message; the store takes 8 MB at once
PAUSE_S = 0.02  # between two looks at the store
CLOSED = getattr(select, "POLLRDHUP", 0) | getattr(select, "POLLHUP", 0) | getattr(select, "POLLERR", 0)


class EmergencyExchange:
    """Messages over the store of a process group; they arrive although the sender has ended.

    connections: to every other process, as gloo made them. Breaking them ends the collectives in which the others wait;
                 those that are still computing notice at their next one
    """

    def __init__(self, store: Store, rank: int, world_size: int, connections: Iterable[int]) -> None:
        self.store = store
        self.rank = rank
        self.world_size = world_size
        # copies of the file descriptors: gloo closes its own at the first error
        self._sockets = [socket.socket(fileno=os.dup(number)) for number in connections]

    def send(self, message: bytes) -> int | None:
        """Send a message to rank 0, and break the connections.

        Returns the rank that did so first; None if the store has ended, with the process or the launcher that held it.
        """
        first = None
        with suppress(RuntimeError):
            self.store.set_timeout(timedelta(seconds=SILENCE_S))
            first = int(self.store.compare_set("first", "", str(self.rank)))
            parts = [message[start : start + PART_BYTES] for start in range(0, len(message), PART_BYTES)]
            for number, part in enumerate(parts):
                self.store.set(f"from {self.rank}, {number}", part)  # type: ignore[arg-type]
            self.store.set(self._key(self.rank), str(len(parts)))
        for connection in self._sockets:
            with suppress(OSError):  # the other process has closed it
                connection.shutdown(socket.SHUT_WR)
        return first

    def collect(self) -> list[bytes]:
        """Return the message of every rank, in the order of ranks; on rank 0.

        Raises GroupError, with the ranks in question, if one has ended without a message or is silent for too long.
        """

        def missing() -> list[int]:
            return [rank for rank in range(self.world_size) if not self.store.check([self._key(rank)])]

        self._wait(lambda: not missing(), SILENCE_S, lambda: self._closed() > self.world_size - 1 - len(missing()))
        if late := missing():
            raise GroupError(f"no answer from rank{'s' if len(late) > 1 else ''} {', '.join(map(str, late))}")
        return [self._receive(rank) for rank in range(self.world_size)]

    def announce_end(self) -> None:
        """Tell the other ranks that nothing more is saved; on rank 0."""
        with suppress(RuntimeError):  # the store has ended with the launcher
            self.store.set("end", "")

    def wait_for_end(self) -> bool:
        """Wait until rank 0 has saved what it can. Return False if it has ended before, or is silent for too long."""
        first_key = self._key(0)
        try:
            # rank 0 answers first, and saves then: that takes as long as it takes
            self._wait(lambda: self.store.check([first_key]), SILENCE_S, lambda: self._closed() == len(self._sockets))
            if self.store.check([first_key]):
                self._wait(lambda: self.store.check(["end"]), default_pg_timeout.total_seconds(), lambda: False)
            return bool(self.store.check(["end"]))
        except RuntimeError:  # the store has ended
            return False

    def close(self) -> None:
        """Close the copies of the connections, so that the others notice the end of this process's group."""
        for connection in self._sockets:
            connection.close()

    def _key(self, rank: int) -> str:
        """Return the key under which the number of a message's parts is set, after the parts."""
        return f"from {rank}"

    def _receive(self, rank: int) -> bytes:
        count = int(self.store.get(self._key(rank)))
        return b"".join(self.store.get(f"from {rank}, {number}") for number in range(count))

    def _closed(self) -> int:
        """Return how many of the other processes have broken their connection, or ended."""
        poll = select.poll()
        for connection in self._sockets:
            poll.register(connection.fileno(), CLOSED)
        return sum(bool(event & CLOSED) for _, event in poll.poll(0))

    def _wait(self, is_done: Callable[[], bool], seconds: float, is_hopeless: Callable[[], bool]) -> None:
        """Wait until `is_done()`, for a moment more once `is_hopeless()`, or until the time is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not is_done():
            if is_hopeless():  # the others may still have something to say
                end = min(end, time.monotonic() + MOMENT_S)
            time.sleep(PAUSE_S)


def open_sockets() -> set[tuple[int, int]]:
    """Return file descriptor and inode of the sockets of this process; none where the system does not list them.

    The inode tells a socket from an earlier one with the same number.
    """
    found = set()
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):  # the folder's own descriptor is closed by now
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    found.add((int(name), status.st_ino))
    return found


def connected(sockets: Iterable[tuple[int, int]], without_port: int) -> list[int]:
    """Return the file descriptors of those that are connected over TCP, except with this port at either end."""
    found = []
    for number, _ in sorted(sockets):
        with socket.socket(fileno=os.dup(number)) as copy, suppress(OSError):  # of one that listens
            is_tcp = copy.family in (socket.AF_INET, socket.AF_INET6)
            if is_tcp and without_port not in (copy.getsockname()[1], copy.getpeername()[1]):
                found.append(number)
    return found
