"""Judging and deciding with plain numbers: no model, no optimizer."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from core.stability.detector import InstabilityDetector
from core.stability.flags import RankFlags
from core.stability.monitor import RecentStep, Requests, StabilityMonitor, StepVerdict
from core.stability.recovery import GO_ON, ROLL_BACK, SKIP, STOP, Decision, Recovery
from tests.core.late_flags import LateFlags

CPU, NAN = torch.device("cpu"), float("nan")


def explain(step: RecentStep | None, losses: Sequence[float]) -> str:
    return f"{step and step.batch} after {list(losses)}"


def monitor(on_instability: str = "recover", flags: RankFlags | None = None, **settings: Any) -> StabilityMonitor:
    recovery = Recovery(on_instability, **settings)
    return StabilityMonitor(InstabilityDetector(), recovery, flags or RankFlags(CPU), explain)


def shown(watching: StabilityMonitor, loss: float, norm: float, iter_num: int = 3, **requests: bool) -> tuple[int, Any]:
    """Return the flag on the device and the verdict."""
    skip = watching.inspect_step(iter_num, torch.tensor(loss), torch.tensor(norm), {}, Requests(**requests))
    return int(skip), watching.verdict()


@pytest.mark.parametrize(
    ("loss", "norm", "cause"),
    [
        (1.0, 2.0, None),
        (NAN, 2.0, "the loss is not finite"),
        (1.0, float("inf"), "the gradient is not finite"),
        (NAN, NAN, "the loss is not finite and the gradient is not finite"),
    ],
)
def test_four_floats_are_judged(loss: float, norm: float, cause: str | None) -> None:
    watching = monitor()

    skip, verdict = shown(watching, loss, norm)

    assert verdict == StepVerdict(3, cause, Requests(False, False, False))
    assert skip == (cause is not None)
    assert watching.verdict() is None  # once
    assert watching.decide_on(verdict) == Decision(ROLL_BACK if cause else GO_ON, 3, cause or "")
    assert watching.is_healthy is (cause is None)


def test_what_an_objective_reports_is_judged_too() -> None:
    watching = monitor()
    skip = watching.inspect_step(0, torch.tensor(1.0), torch.tensor(1.0), {"finite": torch.tensor(False)})

    verdict = watching.verdict()
    assert int(skip) == 1 and verdict is not None and verdict.cause == "the objective met a number that is not finite"


@pytest.mark.parametrize(
    ("on_instability", "skips", "action"),
    [("recover", 1, ROLL_BACK), ("skip", 1, SKIP), ("warn", 0, GO_ON), ("stop", 1, STOP)],
)
def test_the_option_decides_what_is_done(on_instability: str, skips: int, action: str) -> None:
    watching = monitor(on_instability)

    skip, verdict = shown(watching, NAN, 1.0)

    assert (skip, watching.decide_on(verdict).action) == (skips, action)


def test_requests_travel_with_the_verdict() -> None:
    _, verdict = shown(monitor(), 1.0, 1.0, preempt=True, save=True)

    assert verdict.requests == Requests(preempt=True, stop=False, save=True)


def test_any_ranks_flags_count_for_all() -> None:
    def other_rank(flags: torch.Tensor) -> torch.Tensor:
        return flags.logical_or_(torch.tensor([1, 0, 0, 0, 0, 0, 1, 0]))

    skip, verdict = shown(monitor(flags=RankFlags(CPU, other_rank)), 1.0, 1.0)

    assert skip == 1
    assert verdict == StepVerdict(3, "the loss is not finite", Requests(stop=True))


def test_a_gpus_verdict_comes_one_update_late_and_can_be_awaited() -> None:
    watching = monitor(flags=LateFlags(CPU))

    skip, first = shown(watching, NAN, 1.0, iter_num=7)
    _, second = shown(watching, 1.0, 1.0, iter_num=8)

    assert (skip, first) == (1, None)  # suppressed on the device all the same
    assert (second.iter_num, second.cause) == (7, "the loss is not finite")
    awaited = watching.wait_for_verdict()
    assert awaited is not None and (awaited.iter_num, awaited.cause) == (8, None)
    assert watching.wait_for_verdict() is None


def test_a_rollback_forgets_what_is_under_way_and_counts() -> None:
    watching = monitor(flags=LateFlags(CPU), recovery_lr_factor=0.5)
    shown(watching, NAN, 1.0, iter_num=7)
    decision = watching.decide_on_damage("the loss is not finite", 7)
    assert not watching.is_healthy

    message = watching.record_rollback(decision, 4, "ckpt-000002.pt")

    assert message == (
        "iteration 7: the loss is not finite; going on from iteration 4 (ckpt-000002.pt) without that batch; "
        "recovery 1 of 3"
    )
    assert watching.wait_for_verdict() is None
    assert watching.history == [{"iter": 7, "cause": "the loss is not finite", "back_to": 4}]
    assert (watching.lr_scale, watching.is_healthy, watching.batches_to_skip(7)) == (0.5, True, 1)


@pytest.mark.parametrize(("train", "val", "action"), [(1.0, 2.0, GO_ON), (1.0, NAN, ROLL_BACK), (NAN, 1.0, ROLL_BACK)])
def test_an_evaluation_is_judged(train: float, val: float, action: str) -> None:
    decision = monitor().decide_on_evaluation({"train": torch.tensor(train), "val": torch.tensor(val)}, 4)

    assert (decision.action, decision.iter_num) == (action, 4)
    assert decision.cause == ("" if action == GO_ON else "the evaluation after it is not finite")


def test_a_stable_update_ends_a_row_of_skipped_ones() -> None:
    watching = monitor("skip", max_recoveries=2)
    actions = [watching.decide_on(shown(watching, loss, 1.0)[1]).action for loss in (NAN, NAN, 1.0, NAN, NAN, NAN)]

    assert actions == [SKIP, SKIP, GO_ON, SKIP, SKIP, STOP]


def test_the_diagnosis_is_shown_the_step_it_is_about() -> None:
    watching = monitor()
    for number in (5, 6, 7):
        shown(watching, float(number), 1.0)
        watching.remember_step(number, f"batch {number}", {})

    assert watching.diagnosis(6) == "batch 6 after [5.0, 6.0, 7.0]"
    assert watching.diagnosis(5) == "None after [5.0, 6.0, 7.0]"  # no longer among the recent ones
