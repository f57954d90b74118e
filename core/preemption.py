"""Requests to stop early: from a job scheduler, from the keyboard, from the clock."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn, ParamSpec, TypeVar

from core.errors import INTERRUPTED, TRY_AGAIN, PreemptedError

log = logging.getLogger("coregpt")
P = ParamSpec("P")
T = TypeVar("T")
# job schedulers send USR1 before they end a job, and a terminal HUP when it is closed; Windows has neither
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")


class Interrupted(BaseException):
    """Raised in an abandonable region when a request to stop arrives; `except Exception` does not catch it."""


class Preemption:
    """Notices SIGTERM, SIGINT, SIGUSR1, SIGHUP and the end of the time limit, between entering and leaving.

    Under nohup, which has SIGHUP ignored, it stays ignored.

    time_limit_hours: counted from here; None is no limit
    """

    def __init__(self, time_limit_hours: float | None = None) -> None:
        hours = float("inf") if time_limit_hours is None else time_limit_hours
        self._deadline = time.monotonic() + hours * 3600
        self._time_is_up = f"the time limit of {hours:g} hour{'' if hours == 1 else 's'}"
        self._signal: str | None = None  # the first that came
        self._signal_at = float("inf")
        self._interrupts = 0  # SIGINTs so far
        self._region = _Region()
        self._previous: dict[int, Any] = {}
        self._pid = os.getpid()

    def __enter__(self) -> "Preemption":
        self._pid = os.getpid()
        with suppress(ValueError):  # outside the main thread Python installs no handler
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                # a handler that was not set from Python reads as None and cannot be restored
                self._previous[number] = signal.signal(number, self._notice) or signal.SIG_DFL
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    @property
    def requested(self) -> str | None:
        """The reason to stop early, such as `SIGTERM` or `the time limit of 1.5 hours`; None if there is none."""
        if self._signal is None and time.monotonic() >= self._deadline:
            return self._time_is_up
        return self._signal

    @property
    def reason(self) -> str:
        """Why a run of several processes stops, as far as this one knows."""
        return self.requested or "a signal to another process"

    @property
    def waited_s(self) -> float:
        """Seconds since the request to stop; 0 if there is none."""
        return max(time.monotonic() - min(self._signal_at, self._deadline), 0.0)

    @property
    def exit_status(self) -> int:
        """130 after SIGINT, else 75: try again later. Under torchrun 0, as it restarts processes that end otherwise."""
        if "TORCHELASTIC_RUN_ID" in os.environ:
            return 0
        return INTERRUPTED if self.requested == "SIGINT" else TRY_AGAIN

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """Mark work that a request to stop may end half-way: Interrupted is raised in it, once.

        Regions nest, and the exception leaves all of them. The end of the time limit is noticed on entering only; so
        are signals in a thread that is not the main one.
        """
        outer = self._region.open
        try:
            # open first, then look: no signal in between is missed
            self._region.open = True
            if reason := self.requested:
                raise Interrupted(reason)
            yield
        finally:
            # until here a signal is raised in the region; from here on it is only noted
            self._region.open = outer

    def attempt(self, work: Callable[[], T]) -> T | None:
        """Return the result of `work`, or None if a request to stop ended it; an outer region ends with it."""
        outer = self._region.open
        try:
            with self.abandonable():
                return work()
        except Interrupted:
            if outer:
                raise
            return None

    def run_before_training(self, work: Callable[[], None]) -> None:
        """Run `work`. Raises PreemptedError if a request to stop comes before its end."""
        self.attempt(work)
        if self.requested:
            self.end_before_training()

    def end_before_training(self) -> NoReturn:
        """Raise PreemptedError: a request to stop ends the run, which has nothing to save."""
        raise PreemptedError(f"stopped by {self.reason} before the first update", self.exit_status)

    def guard(self, work: Callable[P, T]) -> Callable[P, T]:
        """Return `work` as a function each call of which is an abandonable region; Interrupted reaches the caller."""

        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.abandonable():
                return work(*args, **kwargs)

        return guarded

    def _notice(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal, in the main thread, between any two steps of the program."""
        if os.getpid() != self._pid:  # a forked child, such as a data loader's worker: the signal must end it
            signal.signal(number, self._previous.get(number, signal.SIG_DFL))
            signal.raise_signal(number)
            return
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        if self._signal is not None:
            return
        self._signal, self._signal_at = signal.Signals(number).name, time.monotonic()
        with suppress(RuntimeError):  # the signal may have come in the middle of a write to the same stream
            log.info(f"{self._signal}: saving, then stopping")
        if self._region.open:
            # only the first signal is raised, and it may come while a region is being left
            self._region.open = False
            raise Interrupted(self._signal)


class _Region(threading.local):
    """Whether a thread is inside an abandonable region; signals are handled in the main thread."""

    open = False
