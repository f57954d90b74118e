"""When a checkpoint is due, beside the ones that evaluations write."""

import time


class SaveSchedule:
    """Counts iterations and minutes since the last save, and remembers to try again after one that failed.

    interval: iterations from one save to the next; 0 for none
    minutes:  minutes from one save to the next; 0 for none
    """

    RETRY_SECONDS = 60.0

    def __init__(self, interval: int = 0, minutes: float = 0.0) -> None:
        self.interval = interval
        self.seconds = minutes * 60
        self.saved_at: int | None = None  # iteration of the last checkpoint, written or restored
        self.retries = False
        self._since = time.monotonic()  # a clock that nobody sets back

    def falls_on(self, iter_num: int) -> bool:
        """Tell whether iteration `iter_num` is one to save at, and nothing has saved it yet."""
        return self.interval > 0 and iter_num > 0 and iter_num % self.interval == 0 and iter_num != self.saved_at

    def is_overdue(self) -> bool:
        """Tell whether the minutes have passed, or a failed save is to be tried again. Each process has its clock."""
        wait = self.RETRY_SECONDS if self.retries else self.seconds
        return wait > 0 and time.monotonic() - self._since >= wait

    def saved(self, iter_num: int) -> None:
        """Note that the state at `iter_num` is safe."""
        self.saved_at, self.retries, self._since = iter_num, False, time.monotonic()

    def failed(self) -> None:
        """Note that a save came to nothing."""
        self.saved_at, self.retries, self._since = None, True, time.monotonic()
