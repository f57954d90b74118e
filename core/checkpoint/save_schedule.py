"""When a checkpoint is due, in addition to the ones that evaluations write."""

import time


class SaveSchedule:
    """Counts iterations and minutes since the last save, takes requests, and tries again after a failed save.

    interval: iterations from one save to the next; 0 disables
    minutes:  minutes from one save to the next; 0 disables
    """

    RETRY_SECONDS = 60.0

    def __init__(self, interval: int = 0, minutes: float = 0.0) -> None:
        self.interval = interval
        self.seconds = minutes * 60
        self.saved_at: int | None = None  # iteration of the last checkpoint, written or restored
        self.retries = False
        self.is_agreed = False  # all ranks know that a save is due
        self._is_requested = False
        self._since = time.monotonic()  # not affected by changes of the system's clock

    def request(self) -> None:
        """Ask for a save on this rank."""
        self._is_requested = True

    def wants_save(self) -> bool:
        """Return whether this rank asks for a save: by request, by the clock, or to repeat a failed one."""
        wait = self.RETRY_SECONDS if self.retries else self.seconds
        return self._is_requested or (wait > 0 and time.monotonic() - self._since >= wait)

    def is_due(self, iter_num: int) -> bool:
        """Return whether to save at iteration `iter_num`, the same on all ranks."""
        on_interval = self.interval > 0 and iter_num > 0 and iter_num % self.interval == 0
        return self.is_agreed or (on_interval and iter_num != self.saved_at)

    def saved(self, iter_num: int) -> None:
        """Record that the state at `iter_num` is saved."""
        self.saved_at, self.retries = iter_num, False
        self._restart()

    def failed(self) -> None:
        """Record that a save failed."""
        self.saved_at, self.retries = None, True
        self._restart()

    def dropped(self) -> None:
        """Record that there is nothing to save: a request is forgotten, and the clock starts again."""
        self._restart()

    def rolled_back(self, saved_at: int | None) -> None:
        """Record that the run is back at the checkpoint of iteration `saved_at`, or at its beginning (None)."""
        self.saved_at = saved_at
        self.is_agreed = self._is_requested = False

    def _restart(self) -> None:
        self.is_agreed = self._is_requested = False
        self._since = time.monotonic()
