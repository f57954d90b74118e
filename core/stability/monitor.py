"""Watches every update: judges it, has all ranks agree on the verdict, and says what to do about it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from core.stability.detector import NOT_FINITE, InstabilityDetector
from core.stability.flags import AgreedFlags, RankFlags
from core.stability.recovery import GO_ON, Decision, Recovery


class RecentStep(NamedTuple):
    """An update that a diagnosis may look at: its last micro-batch, and where the data and the random state were."""

    iter_num: int
    batch: Any
    position: dict[str, Any]


class Requests(NamedTuple):
    """What a rank asks for together with its verdict on an update.

    preempt: a signal or the clock ends the run; stop: something asked for its end; save: a checkpoint is due
    """

    preempt: bool = False
    stop: bool = False
    save: bool = False


class StepVerdict(NamedTuple):
    """What all ranks agreed on about an update: why it is unstable (None: it is stable), and their requests."""

    iter_num: int
    cause: str | None
    requests: Requests


# diagnose(the step, or None if it is not among the recent ones; recent losses) -> a report of a few lines
Diagnose = Callable[[RecentStep | None, Sequence[float]], str]


class StabilityMonitor:
    """Is shown every update, and says whether to go on, skip it, roll back, or stop. It acts on nothing itself.

    In order: `inspect_step` before the update is made; `verdict`, what all ranks agreed on; `decide_on`, what to do.

    detector: judges an update on this rank
    recovery: decides what to do about an unstable one
    flags:    reduces verdict and requests over all ranks, one message per update
    diagnose: explains an unstable update

    is_healthy: nothing was unstable since the last complete checkpoint
    """

    def __init__(self, detector: InstabilityDetector, recovery: Recovery, flags: RankFlags, diagnose: Diagnose) -> None:
        self.detector = detector
        self.recovery = recovery
        self.flags = flags
        self.diagnose = diagnose
        self.is_healthy = True
        self._was_healthy = True  # before the last save
        self.recent_steps: deque[RecentStep] = deque(maxlen=2)  # since a rollback; a GPU delivers verdicts late
        self._verdict: StepVerdict | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rollbacks of the run: iteration, cause, and the iteration that it went back to."""
        return self.recovery.history

    @property
    def lr_scale(self) -> float:
        """The factor that rollbacks have put on the learning rate."""
        return self.recovery.lr_scale

    def batches_to_skip(self, iter_num: int) -> int:
        """Return how many updates' batches to skip before the update of `iter_num`."""
        return self.recovery.batches_to_skip(iter_num)

    # one update

    def inspect_step(
        self,
        iter_num: int,
        loss: torch.Tensor,
        grad_norm: torch.Tensor,
        metrics: dict[str, torch.Tensor],
        requests: Requests = Requests(),  # noqa: B008  (immutable)
    ) -> torch.Tensor:
        """Judge an update before it is made, and send verdict and requests to all ranks.

        loss, grad_norm: scalars on the device; the loss is the mean over the update's micro-batches
        metrics:         what the objective reports, see `InstabilityDetector.inspect`

        Returns an int32 scalar on the device: not 0 if the optimizer must not make this update.
        """
        causes = self.detector.inspect(loss, grad_norm, metrics)
        agreed, known = self.flags.reduce(iter_num, [*causes, *(self.flags.flag(bool(wish)) for wish in requests)])
        self._verdict = self._translate(known)
        return agreed[: len(causes)].any() & self.flags.flag(self.recovery.suppresses_updates)

    def verdict(self) -> StepVerdict | None:
        """Return, once, the verdict that is known by now: on a CPU of this update, on a GPU of the one before."""
        verdict, self._verdict = self._verdict, None
        return verdict

    def wait_for_verdict(self) -> StepVerdict | None:
        """Return the verdict that a GPU has not delivered yet, waiting for it; None if there is none."""
        return self._translate(self.flags.wait())

    def remember_step(self, iter_num: int, batch: Any, position: dict[str, Any]) -> None:
        """Keep an update for a diagnosis."""
        self.recent_steps.append(RecentStep(iter_num, batch, position))

    # what to do about it

    def decide_on(self, verdict: StepVerdict) -> Decision:
        """Return what to do about an update."""
        if verdict.cause:
            return self._decide_unstable(verdict.cause, verdict.iter_num)
        self.recovery.skipped_in_a_row = 0
        return Decision(GO_ON, verdict.iter_num)

    def decide_on_evaluation(self, losses: dict[str, torch.Tensor], iter_num: int) -> Decision:
        """Return what to do about the update of `iter_num`, after which both losses were measured; -1: before any."""
        if self.detector.check_validation_stability(losses):
            return Decision(GO_ON, iter_num)
        if iter_num < 0:
            return self._decide_unstable("the evaluation before it is not finite", 0, is_first=True)
        return self._decide_unstable("the evaluation after it is not finite", iter_num)

    def decide_on_damage(self, iter_num: int) -> Decision:
        """Return what to do about weights or moments that are not finite after the update of `iter_num`."""
        return self._decide_unstable(NOT_FINITE, iter_num, is_made=True)

    def _decide_unstable(self, cause: str, iter_num: int, is_made: bool = False, is_first: bool = False) -> Decision:
        self.is_healthy = False
        return self.recovery.decide(cause, iter_num, is_made, is_first)

    # saves

    def begin_save(self) -> None:
        """Start healthy: the checkpoint that is about to be written holds what was unstable before."""
        self._was_healthy, self.is_healthy = self.is_healthy, True

    def fail_save(self) -> None:
        """Take `begin_save` back: the checkpoint could not be written."""
        self.is_healthy &= self._was_healthy

    def diagnosis(self, iter_num: int) -> str:
        """Return a report on the update of `iter_num`, of the first rank that found something in its batch."""
        losses = [loss.item() for loss in self.detector.recent]
        step = next((step for step in self.recent_steps if step.iter_num == iter_num), None)
        return self.diagnose(step, losses)

    def record_rollback(self, decision: Decision, back_to: int, place: str) -> str:
        """Record that the run went back to iteration `back_to`, where it was healthy. Return a message about it.

        place: what the message calls the checkpoint
        """
        self.flags.clear()
        self.recent_steps.clear()
        self.is_healthy = True
        self.recovery.record_rollback(decision.cause, decision.iter_num, back_to)
        count = f"recovery {len(self.history)} of {self.recovery.max_recoveries}"
        return (
            f"iteration {decision.iter_num}: {decision.cause}; "
            f"going on from iteration {back_to} ({place}) without that batch; {count}"
        )

    def _translate(self, agreed: AgreedFlags | None) -> StepVerdict | None:
        if agreed is None:
            return None
        count = len(self.detector.CAUSES)
        cause = self.detector.causes(agreed.flags[:count])
        return StepVerdict(agreed.iter_num, cause, Requests(*agreed.flags[count:]))
