"""The penalty on scores that do not follow their targets, compared with loops over lists."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from loss_modifiers import SequenceScorerCorrelationModifier
from tests.loss_modifiers.batches import Scores, detached, quick, same, score_batches, scores


def pearson(xs: list[float], ys: list[float], eps: float = 1e-8) -> float:
    xs, ys = ([v - sum(values) / len(values) for v in values] for values in (xs, ys))
    norms = math.sqrt(sum(x * x for x in xs) + eps) * math.sqrt(sum(y * y for y in ys) + eps)
    return min(max(sum(x * y for x, y in zip(xs, ys, strict=True)) / (norms + eps), -1.0), 1.0)


@quick
@given(batch=score_batches, alpha=st.sampled_from([1.0, 4.0, 7.5]))
def test_multiplier(batch: Scores, alpha: float) -> None:
    c = pearson(batch.logits.tolist(), batch.targets.tolist())
    multiplier = (math.sqrt(alpha) - 1) ** 2 / 2 * c * c + (1 - alpha) / 2 * c + math.sqrt(alpha)
    modifier = SequenceScorerCorrelationModifier(alpha)

    same(modifier.modify(*batch), [multiplier * loss for loss in batch.loss.tolist()])
    same(modifier.metrics()["correlation"], c)
    same(modifier.metrics()["multiplier"], multiplier)


@pytest.mark.parametrize(("slope", "expected"), [(0.5, 1.0), (-0.5, 9.0), (0.0, 3.0)])
def test_known_correlations(slope: float, expected: float) -> None:
    targets = torch.linspace(0, 1, 100, dtype=torch.float64)
    loss = torch.ones(100, dtype=torch.float64)
    found = SequenceScorerCorrelationModifier(9.0).modify(loss, 0.5 + slope * targets, targets, targets >= 0)

    torch.testing.assert_close(found, loss * expected, rtol=1e-5, atol=0)


def test_no_gradient_flows_through_the_correlation() -> None:
    batch = scores()
    found = SequenceScorerCorrelationModifier().modify(batch.loss, *batch[1:])
    multiplier = (found / batch.loss).detach()
    (given,) = torch.autograd.grad(found.sum(), batch.logits)

    torch.testing.assert_close(given, (multiplier * 2 * (batch.logits - batch.targets)).detach())


def test_metrics() -> None:
    batch, modifier = scores(), SequenceScorerCorrelationModifier(4.0)
    after = modifier.modify(*batch).mean().item()
    found = {name: value.item() for name, value in modifier.metrics().items()}

    assert detached(modifier.metrics())
    assert found.pop("multiplier") == pytest.approx(found["loss_ratio"])
    assert -1 <= found.pop("correlation") <= 1
    before = batch.loss.mean().item()
    expected = {"A": 0.5, "B": -1.5, "C": 2.0, "alpha": 4.0, "original_loss": before, "final_loss": after}
    assert found == pytest.approx({**expected, "loss_ratio": after / before}, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.99, -1.0, math.nan])
def test_an_alpha_that_would_reward_opposition_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match=f"sequence_correlation_alpha={alpha}: wanted at least 1"):
        SequenceScorerCorrelationModifier(alpha)
