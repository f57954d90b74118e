"""The detector: a verdict for every update, the same on all ranks. A GPU's, which come one update late, need a GPU."""

import pytest
import torch

from core.instability_detector import InstabilityDetector
from core.training_step import StepResult

INF, NAN = float("inf"), float("nan")
LOSS, GRADIENT = "the loss is not finite", "the gradient is not finite"


def result(loss: float, grad_norm: float | None) -> StepResult:
    return StepResult(torch.tensor(loss), None if grad_norm is None else torch.tensor(grad_norm), {})


@pytest.mark.parametrize(
    ("loss", "grad_norm", "verdict"),
    [
        (2.5, 1.0, None),
        (2.5, None, None),
        (1e30, 1e30, None),
        (NAN, 1.0, LOSS),
        (INF, None, LOSS),
        (-INF, 1.0, LOSS),
        (2.5, INF, GRADIENT),
        (2.5, NAN, GRADIENT),
        (NAN, NAN, f"{LOSS} and {GRADIENT}"),
    ],
)
def test_verdict_names_every_cause(loss: float, grad_norm: float | None, verdict: str | None) -> None:
    assert InstabilityDetector().judge(result(loss, grad_norm)) == verdict


@pytest.mark.parametrize(
    ("loss", "grad_norm", "verdict"), [(2.5, INF, None), (2.5, NAN, None), (NAN, INF, LOSS), (2.5, 1.0, None)]
)
def test_overflow_of_scaled_gradients_is_the_scalers_business(
    loss: float, grad_norm: float, verdict: str | None
) -> None:
    assert InstabilityDetector(loss_scaling=True).judge(result(loss, grad_norm)) == verdict


def test_another_ranks_trouble_is_ones_own() -> None:
    """The flags go through any_rank as int32, loss first; what comes back is the verdict."""
    sent = []

    def any_rank(flags: torch.Tensor) -> torch.Tensor:
        sent.append(flags.clone())
        flags |= torch.tensor([0, 1], dtype=torch.int32)  # another rank's gradient
        return flags

    assert InstabilityDetector(any_rank).judge(result(NAN, 1.0)) == f"{LOSS} and {GRADIENT}"
    assert InstabilityDetector(any_rank).judge(result(2.5, 1.0)) == GRADIENT
    assert [flags.tolist() for flags in sent] == [[1, 0], [0, 0]]
    assert {flags.dtype for flags in sent} == {torch.int32}


def test_it_only_judges() -> None:
    """Looking changes neither the result nor what is said of the next one."""
    detector, broken = InstabilityDetector(), result(NAN, 7.0)

    detector.judge(broken)

    assert broken.loss.isnan() and broken.grad_norm == 7.0
    assert detector.judge(result(2.5, 1.0)) is None


def test_on_a_cpu_no_verdict_is_on_its_way() -> None:
    detector = InstabilityDetector()
    detector.judge(result(NAN, 1.0))

    assert detector.settle() is None


@pytest.mark.parametrize(
    ("train", "val", "sound"), [(2.0, 2.1, True), (NAN, 2.1, False), (2.0, INF, False), (NAN, NAN, False)]
)
def test_an_evaluation_is_sound_when_every_split_is(train: float, val: float, sound: bool) -> None:
    losses = {"train": torch.tensor(train), "val": torch.tensor(val)}

    assert InstabilityDetector().check_validation_stability(losses) is sound
