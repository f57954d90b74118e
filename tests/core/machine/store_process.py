"""A store in a process of its own, as torchrun has it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist

from benchmark.soak.campaign import start


def store_process(folder: Path) -> Iterator[int]:
    """Yield the port of a store that lives on when ranks end.

    It has a process of its own: a store that is opened in this one must not be freed in a forked process.
    """

    def serve() -> None:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        Path("port.part").write_text(str(store.port))
        Path("port.part").rename("port")
        time.sleep(600)

    pid = start(serve, folder)
    while not (folder / "port").exists():
        time.sleep(0.001)
    yield int((folder / "port").read_text())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
