"""Watches the saves of a child process, and calls a function at every instant at which a save can be killed."""

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
    """Counts the instants at which a process can be killed inside a save, and calls `act` at each of them.

    There is an instant at the beginning of a save, and one before and after each of its calls in CALLS. The count is
    in memory shared with the parent, which can read it after the child is dead.

    act: `act(number, where, path)`; number: of the instant, from 1; where: description of the instant; path: a
         temporary file that was written but not flushed, so that `act` may truncate it; None at other instants
    """

    def __init__(self, act: Act = lambda number, where, path: None) -> None:
        self.act = act
        self._thread = threading.local()  # saving: whether this thread is in a save
        self._shared = mmap.mmap(-1, 8)  # two ints: number of instants; whether a save is running

    @property
    def inside(self) -> bool:
        """Whether the child is inside a save, or was when it was killed."""
        return bool(struct.unpack_from("i", self._shared, 4)[0])

    @property
    def instants(self) -> int:
        """Number of instants so far."""
        return int(struct.unpack_from("i", self._shared, 0)[0])

    def install(self) -> None:
        """Watch the saves of this process from now on. To be called in the child; it cannot be undone."""
        save = CheckpointManager._save

        def watched_save(*args: Any) -> Path:
            struct.pack_into("i", self._shared, 4, 1)
            self._thread.saving = True
            try:
                self._count_instant("the beginning")
                return save(*args)
            finally:
                self._thread.saving = False
                struct.pack_into("i", self._shared, 4, 0)

        CheckpointManager._save = watched_save  # type: ignore[method-assign, assignment]
        files.os = _WatchedOs(self._watched)  # type: ignore[assignment, attr-defined]

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of `os` that, when called in a save, has an instant before and one after the call."""

        def watched_call(*args: Any, **kwargs: Any) -> Any:
            if not getattr(self._thread, "saving", False):
                return call(*args, **kwargs)
            path = Path(args[0]) if call.__name__ == "open" else None
            self._count_instant(f"before {call.__name__}", path if path and path.suffix == files.PARTIAL else None)
            result = call(*args, **kwargs)
            self._count_instant(f"after {call.__name__}")
            return result

        return watched_call

    def _count_instant(self, where: str, path: Path | None = None) -> None:
        number = self.instants + 1
        struct.pack_into("i", self._shared, 0, number)
        self.act(number, where, path)


class _WatchedOs:
    """The module `os`, with the functions in CALLS watched."""

    def __init__(self, watch: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._calls = {name: watch(getattr(os, name)) for name in CALLS}

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(os, name)
