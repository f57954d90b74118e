"""What is done about an update that was not sound, and what follows from it for the rest of the run."""

import logging
from collections.abc import Callable
from typing import Any

from core.errors import DivergedError

log = logging.getLogger("coregpt")


class Recovery:
    """Decides whether to go back to a checkpoint, keeps the budget, and knows which batches to leave out afterwards.

    Plain numbers, so that all ranks decide alike.

    on_instability: recover, stop, skip (leave the update out) or warn (train on regardless)
    max_recoveries: budget of the whole run, resumed or not; with skip, of updates left out in a row
    recovery_skip:  updates before and after the offending one whose batches are left out as well
    recovery_lr_factor: every recovery multiplies the learning rate by this, for the rest of the run
    """

    def __init__(
        self,
        on_instability: str = "recover",
        max_recoveries: int = 3,
        recovery_skip: int = 0,
        recovery_lr_factor: float = 1.0,
    ) -> None:
        self.on_instability = on_instability
        self.max_recoveries = max_recoveries
        self.skip = recovery_skip
        self.lr_factor = recovery_lr_factor
        self.history: list[dict[str, Any]] = []
        self.lr_scale = 1.0
        self.dropped = 0  # updates in a row
        self.healthy = True  # nothing was unsound since the last checkpoint
        self._left_out: dict[int, int] = {}

    @property
    def leaves_out(self) -> bool:
        """Whether an unsound update is not made."""
        return self.on_instability != "warn"

    def decide(self, cause: str, iter_num: int, diagnose: Callable[[], str]) -> bool:
        """Return whether to go back to a checkpoint because the update of `iter_num` was unsound.

        Raises DivergedError, with a diagnosis, when the run is to stop or nothing is left to try.
        """
        self.healthy = False
        message = f"iteration {iter_num}: {cause}"
        if self.on_instability == "recover" and len(self.history) < self.max_recoveries:
            return True
        if self.on_instability == "skip" and self.dropped < self.max_recoveries:
            self.dropped += 1
            log.warning(f"{message}; this update is left out")
            return False
        if self.on_instability == "warn":
            log.warning(message)
            return False
        why = {
            "recover": f"all {self.max_recoveries} recoveries are spent",
            "skip": f"{self.dropped} updates in a row were left out before it",
        }.get(self.on_instability, "stopped")
        raise DivergedError(f"{message}; {why}, the last checkpoint is untouched\n{diagnose()}")

    def record(self, cause: str, iter_num: int, back_to: int) -> None:
        """Note that the update of `iter_num` was unsound, and that the run is back at iteration `back_to`."""
        first = max(iter_num - self.skip, back_to)
        self._left_out[first] = self._left_out.get(first, 0) + iter_num + self.skip - first + 1
        self.lr_scale *= self.lr_factor
        self.history.append({"iter": iter_num, "cause": cause, "back_to": back_to})

    def left_out(self, iter_num: int) -> int:
        """Return how many updates' worth of batches to leave out before the update of `iter_num`."""
        return self._left_out.get(iter_num, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the budget spent and the batches to leave out."""
        return {"history": list(self.history), "lr_scale": self.lr_scale, "left_out": dict(self._left_out)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        self.history = list(state["history"])
        self.lr_scale = state["lr_scale"]
        self._left_out = dict(state["left_out"])
