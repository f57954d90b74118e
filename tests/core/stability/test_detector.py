"""InstabilityDetector: flags for every update before it is made, and the text of their causes."""

from typing import Any

import pytest
import torch

from core.stability.detector import LASTING_OVERFLOW, RECENT, InstabilityDetector

INF, NAN = float("inf"), float("nan")
LOSS, GRADIENT = "the loss is not finite", "the gradient is not finite"


def judge(detector: InstabilityDetector, loss: float, grad_norm: float, **metrics: Any) -> str | None:
    flags = detector.inspect(torch.tensor(loss), torch.tensor(grad_norm), metrics)
    assert all(flag.shape == () and flag.dtype == torch.bool for flag in flags)
    return detector.causes([bool(flag) for flag in flags])


@pytest.mark.parametrize(
    ("loss", "grad_norm", "verdict"),
    [
        (2.5, 1.0, None),
        (1e30, 1e30, None),
        (NAN, 1.0, LOSS),
        (INF, 1.0, LOSS),
        (-INF, 1.0, LOSS),
        (2.5, INF, GRADIENT),
        (2.5, NAN, GRADIENT),
        (NAN, NAN, f"{LOSS} and {GRADIENT}"),
    ],
)
def test_verdict_names_every_cause(loss: float, grad_norm: float, verdict: str | None) -> None:
    assert judge(InstabilityDetector(), loss, grad_norm) == verdict


@pytest.mark.parametrize(
    ("finite", "unstable"),
    [(torch.tensor(True), False), (torch.tensor(1.0), False), (torch.tensor(0), True), (torch.tensor([1, 0]), True)],
)
def test_an_objective_can_report_a_non_finite_number(finite: torch.Tensor, unstable: bool) -> None:
    verdict = judge(InstabilityDetector(), 2.5, 1.0, finite=finite, other=torch.tensor(0.0))

    assert verdict == ("the objective met a number that is not finite" if unstable else None)


def test_flags_stay_on_the_device_of_the_loss() -> None:
    loss = torch.tensor(2.5, device="meta")

    flags = InstabilityDetector(spike_threshold=5).inspect(loss, loss, {})

    assert {flag.device.type for flag in flags} == {"meta"}


# scaled float16


def test_overflow_of_scaled_gradients_is_unstable_only_if_it_lasts() -> None:
    detector = InstabilityDetector(loss_scaling=True)

    verdicts = [judge(detector, 2.5, INF) for _ in range(LASTING_OVERFLOW)]

    assert verdicts == [None] * (LASTING_OVERFLOW - 1) + [GRADIENT]


def test_the_count_of_overflows_restarts_after_a_finite_gradient() -> None:
    detector = InstabilityDetector(loss_scaling=True)
    for _ in range(3):
        assert [judge(detector, 2.5, NAN) for _ in range(LASTING_OVERFLOW - 1)] == [None] * (LASTING_OVERFLOW - 1)
        assert judge(detector, 2.5, 1.0) is None


def test_a_non_finite_loss_is_unstable_even_with_loss_scaling() -> None:
    assert judge(InstabilityDetector(loss_scaling=True), NAN, INF) == LOSS


# spikes


def noisy(detector: InstabilityDetector, updates: int) -> list[str | None]:
    """Judge ordinary updates: losses around 3, gradient norms around 1."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(updates, 2, generator=draw).tolist()
    return [judge(detector, 3 + 0.1 * loss, 1 + 0.1 * norm) for loss, norm in noise]


@pytest.mark.parametrize(
    ("loss", "grad_norm", "verdict"),
    [
        (3.0, 1.0, None),
        (4.5, 1.0, "the loss spiked"),
        (3.0, 2.5, "the gradient norm spiked"),
        (30.0, 10.0, "the loss spiked and the gradient norm spiked"),
        (0.1, 0.0, None),  # a drop is no spike
        (3.5, 1.5, None),
        (NAN, 1.0, LOSS),
    ],
)
def test_a_spike_is_a_value_far_above_the_window(loss: float, grad_norm: float, verdict: str | None) -> None:
    detector = InstabilityDetector(spike_threshold=10, spike_window=50)
    assert noisy(detector, 60) == [None] * 60

    assert judge(detector, loss, grad_norm) == verdict


def test_by_default_nothing_is_a_spike() -> None:
    detector = InstabilityDetector()
    noisy(detector, 300)

    assert judge(detector, 3e9, 1e9) is None


@pytest.mark.parametrize(("window", "warmup", "first"), [(20, 0, 20), (20, 50, 50), (50, 20, 50)])
def test_no_spike_is_seen_before_the_window_is_full_and_warmup_has_ended(window: int, warmup: int, first: int) -> None:
    detector = InstabilityDetector(spike_threshold=10, spike_window=window, warmup_iters=warmup)
    noisy(detector, first - 1)
    assert judge(detector, 900.0, 1.0) is None

    detector = InstabilityDetector(spike_threshold=10, spike_window=window, warmup_iters=warmup)
    noisy(detector, first)
    assert judge(detector, 900.0, 1.0) == "the loss spiked"


def test_unstable_steps_do_not_raise_the_limit_for_spikes() -> None:
    """Otherwise a few spikes, or one NaN, would hide the next spike."""
    detector = InstabilityDetector(spike_threshold=10, spike_window=20)
    noisy(detector, 20)
    for _ in range(30):
        assert judge(detector, 900.0, 1.0) == "the loss spiked"
    for _ in range(30):
        assert judge(detector, NAN, NAN) == f"{LOSS} and {GRADIENT}"
    assert judge(detector, 900.0, 1.0) == "the loss spiked"


def test_a_small_change_after_equal_losses_is_no_spike() -> None:
    detector = InstabilityDetector(spike_threshold=10, spike_window=20)
    for _ in range(20):
        judge(detector, 3.0, 1.0)

    assert judge(detector, 3.02, 1.005) is None
    assert judge(detector, 3.04, 1.0) == "the loss spiked"


def test_a_resumed_detector_gives_the_same_verdicts() -> None:
    detector = InstabilityDetector(loss_scaling=True, spike_threshold=10, spike_window=20)
    noisy(detector, 25)
    for _ in range(LASTING_OVERFLOW - 1):
        judge(detector, 3.0, INF)
    state = detector.state_dict()
    assert judge(detector, 3.0, INF) == GRADIENT

    resumed = InstabilityDetector(loss_scaling=True, spike_threshold=10, spike_window=20)
    resumed.load_state_dict(state)

    assert torch.equal(resumed.window, state["window"])
    assert judge(resumed, 900.0, INF) == f"{GRADIENT} and the loss spiked"


def test_a_window_of_another_size_is_filled_again() -> None:
    detector = InstabilityDetector(spike_threshold=10, spike_window=20)
    noisy(detector, 25)

    resumed = InstabilityDetector(spike_threshold=10, spike_window=30)
    resumed.load_state_dict(detector.state_dict())

    assert judge(resumed, 900.0, 1.0) is None


def test_a_saved_state_does_not_change_afterwards() -> None:
    detector = InstabilityDetector(spike_threshold=10, spike_window=20)
    noisy(detector, 25)
    state = detector.state_dict()
    before = state["window"].clone()
    noisy(detector, 5)

    assert torch.equal(state["window"], before)


# the other checks


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_logits_and_parameters_are_checked_for_non_finite_numbers(bad: float) -> None:
    detector, tensors = InstabilityDetector(), [torch.ones(3, 4), torch.ones(2, dtype=torch.int64)]

    assert detector.check_logits_stability(tensors[0])
    assert detector.check_parameter_stability(tensors)
    tensors[0][2, 3] = bad
    assert not detector.check_logits_stability(tensors[0])
    assert not detector.check_parameter_stability(tensors)


def test_large_but_finite_numbers_are_stable() -> None:
    """Their sum or square would overflow."""
    assert InstabilityDetector().check_parameter_stability([torch.full((1000,), 3e38)])


@pytest.mark.parametrize(
    ("train", "val", "stable"), [(1.0, 2.0, True), (NAN, 2.0, False), (1.0, INF, False), (NAN, NAN, False)]
)
def test_an_evaluation_is_stable_when_every_loss_is_finite(train: float, val: float, stable: bool) -> None:
    losses = {"train": torch.tensor(train), "val": torch.tensor(val)}

    assert InstabilityDetector().check_validation_stability(losses) is stable


def test_recent_holds_the_last_losses() -> None:
    detector = InstabilityDetector()
    for loss in range(20):
        judge(detector, float(loss), 1.0)

    assert [loss.item() for loss in detector.recent] == list(range(20 - RECENT, 20))


def test_a_restored_detector_has_no_recent_losses() -> None:
    detector = InstabilityDetector()
    judge(detector, 2.5, 1.0)

    detector.load_state_dict(detector.state_dict())

    assert not detector.recent


def test_a_snapshot_stays_as_it_is() -> None:
    detector = InstabilityDetector(loss_scaling=True, spike_threshold=5.0, spike_window=8)
    detector.inspect(torch.tensor(2.0), torch.tensor(torch.inf), {})
    snapshot, state = detector.snapshot(), detector.state_dict()
    detector.load_state_dict({**state, "overflows": 7})
    detector.inspect(torch.tensor(3.0), torch.tensor(torch.inf), {})
    detector.load_state_dict(snapshot)

    detector.inspect(torch.tensor(4.0), torch.tensor(torch.inf), {})
    assert snapshot["seen"] == 1 and snapshot["window"][0, 0] == 2 and snapshot["overflows"] == 1
    assert state["overflows"] == 1 and torch.equal(state["window"], snapshot["window"])
    assert detector.state_dict(snapshot)["overflows"] == 1
