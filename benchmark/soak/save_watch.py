"""Eyes on the saves of a child process, and a hand on every instant at which it may be hit inside one."""

import mmap
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import files
from core.checkpoint.manager import CheckpointManager

Act = Callable[[int, str, Path | None], None]
CALLS = ("open", "fsync", "close", "replace", "link", "unlink")


class SaveWatch:
    """Counts the instants at which a process may be hit inside a save, and calls `act` at each of them.

    There is one when a save begins, and one before and one after each thing it asks of the disk. The count lies in
    memory that the parent shares with the child, so that it can be read when the child is dead.

    act: `act(number, where, path)`; number: of the instant, from 1; where: in words; path: a file that was written just
         now and is not yet flushed, so that it may as well have been written in part only; None at other instants
    """

    def __init__(self, act: Act = lambda number, where, path: None) -> None:
        self.act = act
        self._here = threading.local()
        self._shared = mmap.mmap(-1, 8)

    @property
    def inside(self) -> bool:
        """Whether the child is inside a save, or was when it died."""
        return bool(struct.unpack_from("i", self._shared, 4)[0])

    @property
    def instants(self) -> int:
        """How many there were so far."""
        return int(struct.unpack_from("i", self._shared, 0)[0])

    def install(self) -> None:
        """Watch the saves of this process from now on. Call it in the child: it stays so."""
        save = CheckpointManager._save

        def watched_save(*args: Any) -> Path:
            struct.pack_into("i", self._shared, 4, 1)
            self._here.saving = True
            try:
                self._pass("the beginning")
                return save(*args)
            finally:
                self._here.saving = False
                struct.pack_into("i", self._shared, 4, 0)

        CheckpointManager._save = watched_save  # type: ignore[method-assign, assignment]
        files.os = _Watched(self._around)  # type: ignore[assignment, attr-defined]

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of `os` with an instant before and one after it, when it is called in a save."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            if not getattr(self._here, "saving", False):
                return call(*args, **kwargs)
            path = Path(args[0]) if call.__name__ == "open" else None
            self._pass(f"before {call.__name__}", path if path and path.suffix == files.PARTIAL else None)
            done = call(*args, **kwargs)
            self._pass(f"after {call.__name__}")
            return done

        return watched

    def _pass(self, where: str, path: Path | None = None) -> None:
        number = self.instants + 1
        struct.pack_into("i", self._shared, 0, number)
        self.act(number, where, path)


class _Watched:
    """The module `os`, with some of its functions watched."""

    def __init__(self, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._calls = {name: around(getattr(os, name)) for name in CALLS}

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(os, name)
