"""Whether a run is to end early, and why."""

import logging

from core.errors import PreemptedError
from core.preemption import Preemption

log = logging.getLogger("coregpt")


class StopRequest:
    """Collects this rank's reasons to stop, and keeps the reason that all ranks have agreed on.

    is_alone: there is one process, so that its request needs no agreement
    reason:   why the run stops; None while it goes on
    """

    def __init__(self, preemption: Preemption, is_alone: bool) -> None:
        self.preemption = preemption
        self.is_alone = is_alone
        self.reason: str | None = None
        self.is_preempted = False
        self._own: str | None = None  # this rank's request

    @property
    def is_requested(self) -> bool:
        """Whether something on this rank has called `request`."""
        return self._own is not None

    def request(self, reason: str) -> None:
        """Ask for the run to end."""
        self._own = reason
        if self.is_alone:
            self.reason = reason

    def agree(self, is_preempted: bool, is_requested: bool) -> None:
        """Apply what all ranks agreed on after an update: a signal or the clock on some rank, or a request."""
        if is_preempted:
            self.preempt()
        elif is_requested:
            self.reason = self._own or "another process asked for it"

    def preempt(self) -> None:
        """Stop because of a signal or the clock."""
        self.is_preempted = True
        self.reason = self.preemption.reason

    def raise_if_preempted(self, saved_at: int | None, command: str) -> None:
        """Raise PreemptedError if a signal or the clock stopped the run.

        saved_at: iteration of the saved state; None if there was nothing to save
        command:  the command that goes on from there
        """
        if self.is_preempted:
            where = f"at iteration {saved_at}; to go on: {command}"
            where = where if saved_at is not None else "before the first update"
            raise PreemptedError(f"stopped by {self.reason} {where}", self.preemption.exit_status)
