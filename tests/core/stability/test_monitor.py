"""StabilityMonitor with plain numbers: no model, no optimizer."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from core.stability.detector import NOT_FINITE, InstabilityDetector
from core.stability.flags import RankFlags
from core.stability.monitor import RecentStep, Requests, StabilityMonitor, StepVerdict
from core.stability.recovery import GO_ON, ROLL_BACK, SKIP, STOP, Decision, Recovery
from tests.core.late_flags import LateFlags

CPU, NAN = torch.device("cpu"), float("nan")


def explain(step: RecentStep | None, losses: Sequence[float]) -> str:
    return f"{step and step.batch} after {list(losses)}"


def make_monitor(on_instability: str = "recover", flags: RankFlags | None = None, **settings: Any) -> StabilityMonitor:
    recovery = Recovery(on_instability, **settings)
    return StabilityMonitor(InstabilityDetector(), recovery, flags or RankFlags(CPU), explain)


def inspect(
    monitor: StabilityMonitor, loss: float, norm: float, iter_num: int = 3, **requests: bool
) -> tuple[int, Any]:
    """Inspect a step; return its flag on the device and the verdict."""
    skip = monitor.inspect_step(iter_num, torch.tensor(loss), torch.tensor(norm), {}, Requests(**requests))
    return int(skip), monitor.verdict()


@pytest.mark.parametrize(
    ("loss", "norm", "cause"),
    [
        (1.0, 2.0, None),
        (NAN, 2.0, "the loss is not finite"),
        (1.0, float("inf"), "the gradient is not finite"),
        (NAN, NAN, "the loss is not finite and the gradient is not finite"),
    ],
)
def test_the_verdict_names_what_is_not_finite(loss: float, norm: float, cause: str | None) -> None:
    monitor = make_monitor()

    skip, verdict = inspect(monitor, loss, norm)

    assert verdict == StepVerdict(3, cause, Requests(False, False, False))
    assert skip == (cause is not None)
    assert monitor.verdict() is None  # returned once
    assert monitor.decide_on(verdict) == Decision(ROLL_BACK if cause else GO_ON, 3, cause or "")
    assert monitor.is_healthy is (cause is None)


def test_a_non_finite_number_of_the_objective_is_unstable() -> None:
    monitor = make_monitor()
    skip = monitor.inspect_step(0, torch.tensor(1.0), torch.tensor(1.0), {"finite": torch.tensor(False)})

    verdict = monitor.verdict()
    assert int(skip) == 1 and verdict is not None and verdict.cause == "the objective met a number that is not finite"


@pytest.mark.parametrize(
    ("on_instability", "skips", "action"),
    [("recover", 1, ROLL_BACK), ("skip", 1, SKIP), ("warn", 0, GO_ON), ("stop", 1, STOP)],
)
def test_on_instability_chooses_the_action(on_instability: str, skips: int, action: str) -> None:
    monitor = make_monitor(on_instability)

    skip, verdict = inspect(monitor, NAN, 1.0)

    assert (skip, monitor.decide_on(verdict).action) == (skips, action)


@pytest.mark.parametrize("request_", [Requests(preempt=True), Requests(stop=True), Requests(save=True)])
def test_a_verdict_contains_the_requests(request_: Requests) -> None:
    _, verdict = inspect(make_monitor(), 1.0, 1.0, **request_._asdict())

    assert verdict.requests == request_


def test_any_ranks_flags_count_for_all() -> None:
    def other_rank(flags: torch.Tensor) -> torch.Tensor:
        return flags.logical_or_(torch.tensor([1, 0, 0, 0, 0, 0, 1, 0]))

    skip, verdict = inspect(make_monitor(flags=RankFlags(CPU, other_rank)), 1.0, 1.0)

    assert skip == 1
    assert verdict == StepVerdict(3, "the loss is not finite", Requests(stop=True))


def test_a_gpus_verdict_comes_one_update_late_and_can_be_awaited() -> None:
    monitor = make_monitor(flags=LateFlags(CPU))

    skip, first = inspect(monitor, NAN, 1.0, iter_num=7)
    _, second = inspect(monitor, 1.0, 1.0, iter_num=8)

    assert (skip, first) == (1, None)  # the device skips the update at once
    assert (second.iter_num, second.cause) == (7, "the loss is not finite")
    awaited = monitor.wait_for_verdict()
    assert awaited is not None and (awaited.iter_num, awaited.cause) == (8, None)
    assert monitor.wait_for_verdict() is None


def test_a_rollback_drops_pending_verdicts_and_is_recorded() -> None:
    monitor = make_monitor(flags=LateFlags(CPU), recovery_lr_factor=0.5)
    inspect(monitor, NAN, 1.0, iter_num=7)
    monitor.remember_step(7, None, {})
    decision = monitor.decide_on_damage(7)
    assert not monitor.is_healthy

    message = monitor.record_rollback(decision, 4, "ckpt-000002.pt")

    assert message == (
        f"iteration 7: {NOT_FINITE}; going on from iteration 4 (ckpt-000002.pt) without that batch; recovery 1 of 3"
    )
    assert monitor.wait_for_verdict() is None and not monitor.recent_steps
    assert monitor.history == [{"iter": 7, "cause": NOT_FINITE, "back_to": 4}]
    assert (monitor.lr_scale, monitor.is_healthy, monitor.batches_to_skip(7)) == (0.5, True, 1)


@pytest.mark.parametrize(("train", "val", "action"), [(1.0, 2.0, GO_ON), (1.0, NAN, ROLL_BACK), (NAN, 1.0, ROLL_BACK)])
def test_a_non_finite_evaluation_is_rolled_back(train: float, val: float, action: str) -> None:
    decision = make_monitor().decide_on_evaluation({"train": torch.tensor(train), "val": torch.tensor(val)}, 4)

    assert (decision.action, decision.iter_num) == (action, 4)
    assert decision.cause == ("" if action == GO_ON else "the evaluation after it is not finite")


def test_a_non_finite_evaluation_before_the_first_update_stops_the_run() -> None:
    losses = {"train": torch.tensor(NAN), "val": torch.tensor(1.0)}
    decision = make_monitor().decide_on_evaluation(losses, -1)

    assert decision.action == STOP
    assert decision.message.startswith("iteration 0: the evaluation before it is not finite; no update was made yet")


def test_a_stable_update_resets_the_count_of_skipped_updates() -> None:
    monitor = make_monitor("skip", max_recoveries=2)
    actions = [monitor.decide_on(inspect(monitor, loss, 1.0)[1]).action for loss in (NAN, NAN, 1.0, NAN, NAN, NAN)]

    assert actions == [SKIP, SKIP, GO_ON, SKIP, SKIP, STOP]


def test_the_diagnosis_gets_its_step_and_the_recent_losses() -> None:
    monitor = make_monitor()
    for number in (5, 6, 7):
        inspect(monitor, float(number), 1.0)
        monitor.remember_step(number, f"batch {number}", {})

    assert monitor.diagnosis(6) == "batch 6 after [5.0, 6.0, 7.0]"
    assert monitor.diagnosis(5) == "None after [5.0, 6.0, 7.0]"  # no longer a recent step
