"""What to do about an unstable update, and what a rollback means for the rest of the run."""

import logging
import math
from typing import Any, NamedTuple

log = logging.getLogger("coregpt")
GO_ON, SKIP, ROLL_BACK, STOP = "go on", "skip", "roll back", "stop"


class Decision(NamedTuple):
    """What to do about the update of `iter_num`.

    action: GO_ON; SKIP (the update was not made); ROLL_BACK to the last healthy checkpoint; STOP the run
    cause:  why the update is unstable; "" if it is stable
    reason: why the run stops
    """

    action: str
    iter_num: int
    cause: str = ""
    reason: str = ""

    @property
    def message(self) -> str:
        """What to tell the user about a run that stops."""
        return f"iteration {self.iter_num}: {self.cause}; {self.reason}"


class Recovery:
    """Decides about unstable updates, counts rollbacks, and keeps which batches to skip after them.

    Its state is plain numbers, so that all ranks decide alike.

    on_instability: recover (roll back), stop, skip (do not make the update) or warn (train on)
    max_recoveries: budget of the run, resumed or not; with skip, of skipped updates in a row
    recovery_skip:  updates before and after the unstable one whose batches are skipped as well
    recovery_lr_factor: every rollback multiplies the learning rate by this, for the rest of the run
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
        self.history: list[dict[str, Any]] = []  # one record per rollback
        self.lr_scale = 1.0
        self.skipped_in_a_row = 0
        self._batches_to_skip: dict[int, int] = {}  # by iteration, in updates

    @property
    def suppresses_updates(self) -> bool:
        """Whether an unstable update is not made."""
        return self.on_instability != "warn"

    def decide(self, cause: str, iter_num: int, is_made: bool = False, is_first: bool = False) -> Decision:
        """Return what to do about the unstable update of `iter_num`; log a warning if the run just goes on.

        is_made:  the weights or moments are damaged already, so that the update cannot be skipped any more
        is_first: no update was made yet: there is none to skip, and nothing to go back to
        """
        message = f"iteration {iter_num}: {cause}"
        repeats = self.lr_factor == 1 and any(record["iter"] == iter_num for record in self.history)
        can_recover = len(self.history) < self.max_recoveries and not (repeats or is_first)
        if self.on_instability == "recover" and can_recover:
            return Decision(ROLL_BACK, iter_num, cause)
        can_skip = self.skipped_in_a_row < self.max_recoveries and not (is_made or is_first)
        if self.on_instability == "skip" and can_skip:
            self.skipped_in_a_row += 1
            log.warning(f"{message}; this update is skipped")
            return Decision(SKIP, iter_num, cause)
        if self.on_instability == "warn":
            log.warning(message)
            return Decision(GO_ON, iter_num, cause)
        if is_first:
            return Decision(
                STOP, iter_num, cause, "no update was made yet: the initial weights or the data are at fault"
            )
        reasons = {
            "recover": "its batch was skipped, and another one failed there too: the batch is not the cause"
            if repeats
            else f"all {self.max_recoveries} recoveries are spent",
            "skip": "too late to skip the update"
            if is_made
            else f"{self.skipped_in_a_row} updates in a row were skipped before it",
        }
        return Decision(STOP, iter_num, cause, reasons.get(self.on_instability, "stopped"))

    def record_rollback(self, cause: str, iter_num: int, back_to: int) -> None:
        """Record that the unstable update of `iter_num` led to a rollback to iteration `back_to`."""
        first = max(iter_num - self.skip, back_to)
        self._batches_to_skip[first] = self._batches_to_skip.get(first, 0) + iter_num + self.skip - first + 1
        self.lr_scale *= self.lr_factor
        self.history.append({"iter": iter_num, "cause": cause, "back_to": back_to})

    def batches_to_skip(self, iter_num: int) -> int:
        """Return how many updates' batches to skip before the update of `iter_num`."""
        return self._batches_to_skip.get(iter_num, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the rollbacks made, their factor on the learning rate, and the batches to skip."""
        return {"history": list(self.history), "lr_scale": self.lr_scale, "left_out": dict(self._batches_to_skip)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises ValueError, among others, if the state is damaged."""
        history, lr_scale, left_out = list(state["history"]), float(state["lr_scale"]), dict(state["left_out"])
        if not 0 < lr_scale < math.inf or not all(isinstance(record, dict) and "iter" in record for record in history):
            raise ValueError(f"recovery holds lr_scale={lr_scale} and history={history}")
        if not all(type(number) is int for pair in left_out.items() for number in pair):
            raise ValueError(f"recovery holds left_out={left_out}")
        self.history, self.lr_scale, self._batches_to_skip = history, lr_scale, left_out
