"""Requests to stop early: from a scheduler, from the keyboard, from the clock."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, ParamSpec, TypeVar

from core.errors import INTERRUPTED, TRY_AGAIN, PreemptedError

log = logging.getLogger("coregpt")
P = ParamSpec("P")
T = TypeVar("T")
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")  # USR1 is what schedulers send ahead of the end; Windows has none


class Interrupted(BaseException):
    """Thrown into an abandonable region when a request to stop arrives; no `except Exception` swallows it."""


class Preemption:
    """Notices SIGTERM, SIGINT, SIGUSR1 and the end of the time limit, from entering to leaving.

    time_limit_hours: counted from here; None is no limit
    """

    def __init__(self, time_limit_hours: float | None = None) -> None:
        hours = float("inf") if time_limit_hours is None else time_limit_hours
        self._deadline = time.monotonic() + hours * 3600
        self._time_is_up = f"the time limit of {hours:g} hour{'' if hours == 1 else 's'}"
        self._signal: str | None = None  # the first that came
        self._interrupts = 0  # SIGINTs so far
        self._region = _Region()
        self._former: dict[int, Any] = {}
        self._pid = os.getpid()

    def __enter__(self) -> "Preemption":
        self._pid = os.getpid()
        with suppress(ValueError):  # outside the main thread Python installs no handler
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                # a handler that was not set from Python reads None, and cannot be put back
                self._former[number] = signal.signal(number, self._notice) or signal.SIG_DFL
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._former:
            signal.signal(*self._former.popitem())

    @property
    def requested(self) -> str | None:
        """The reason to stop early, such as `SIGTERM` or `the time limit of 1.5 hours`; None while there is none."""
        if self._signal is None and time.monotonic() >= self._deadline:
            return self._time_is_up
        return self._signal

    @property
    def exit_status(self) -> int:
        """130 after SIGINT, else 75: try again later. Under torchrun 0, as it restarts what ends otherwise."""
        if "TORCHELASTIC_RUN_ID" in os.environ:
            return 0
        return INTERRUPTED if self.requested == "SIGINT" else TRY_AGAIN

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """Mark work that may be dropped half-way: raise Interrupted in it, once, when a request is or comes there.

        Regions nest, and all of them are left. The end of the time limit is noticed on entering, and not inside; in
        another thread than the main one this is so for signals too.
        """
        outer = self._region.open
        try:
            # open first, then look: a signal in between is seen by the one or by the other
            self._region.open = True
            if reason := self.requested:
                raise Interrupted(reason)
            yield
        finally:
            # a signal until here is thrown into the region, closing it; from here on it only leaves its name
            self._region.open = outer

    def attempt(self, work: Callable[[], T]) -> T | None:
        """Return what `work` does, or None when it was abandoned; inside another region that one is abandoned too."""
        outer = self._region.open
        try:
            with self.abandonable():
                return work()
        except Interrupted:
            if outer:
                raise
            return None

    def precede(self, work: Callable[[], None]) -> None:
        """Do what has to be done before training. PreemptedError when a request to stop comes before its end."""
        self.attempt(work)
        if self.requested:
            raise PreemptedError(f"stopped by {self.requested} before the first update", self.exit_status)

    def guard(self, work: Callable[P, T]) -> Callable[P, T]:
        """Return `work` as a function whose every call is an abandonable region; the caller gets the Interrupted."""

        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.abandonable():
                return work(*args, **kwargs)

        return guarded

    def _notice(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal, in the main thread, between any two steps of the program."""
        if os.getpid() != self._pid:  # a forked child, such as a loader's worker: it must die when it is told to
            signal.signal(number, self._former.get(number, signal.SIG_DFL))
            signal.raise_signal(number)
            return
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        if self._signal is not None:
            return
        self._signal = signal.Signals(number).name
        with suppress(RuntimeError):  # the signal may have come in the middle of a write to the same stream
            log.info(f"{self._signal}: saving, then stopping")
        if self._region.open:
            # only the first signal of all is thrown, and it may strike while a region is being left
            self._region.open = False
            raise Interrupted(self._signal)


class _Region(threading.local):
    """Whether a thread is inside an abandonable region. Signals are handled in the main thread, by its own answer."""

    open = False
