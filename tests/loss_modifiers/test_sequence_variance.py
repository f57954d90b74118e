"""The penalty on scores that vary too little, compared with loops over lists."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_modifiers import SequenceScorerVarianceModifier
from tests.loss_modifiers.batches import Scores, detached, quick, same, score_batches, scores


def variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values)


@quick
@given(batch=score_batches, scale=st.sampled_from([1.0, 2.0, 5.0]), alpha=st.sampled_from([0.5, 1.5]))
def test_factor(batch: Scores, scale: float, alpha: float) -> None:
    ratio = variance(batch.targets.tolist()) / max(variance(batch.logits.tolist()), 1e-8)
    factor = 1 + (scale - 1) * (1 - math.exp(-alpha * max(ratio - 1, 0.0)))
    modifier = SequenceScorerVarianceModifier(scale, alpha)

    same(modifier.modify(*batch), [factor * loss for loss in batch.loss.tolist()])
    same(modifier.metrics()["factor_applied"], factor)


def test_metrics() -> None:
    batch, modifier = scores(seed=1, spread=1.0), SequenceScorerVarianceModifier()
    after = modifier.modify(*batch).mean().item()
    found = {name: value.item() for name, value in modifier.metrics().items()}
    of_scores, of_targets, before = variance(batch.logits.tolist()), variance(batch.targets.tolist()), batch.loss.mean()

    assert detached(modifier.metrics())
    assert found.pop("factor_applied") == pytest.approx(after / before.item())
    assert found == pytest.approx(
        {
            "variance_pred": of_scores,
            "variance_target": of_targets,
            "ratio_y_over_x": of_targets / of_scores,
            "alpha": 1.5,
            "scale_cap": 2.0,
            "original_loss": before.item(),
            "final_loss": after,
            "loss_ratio": after / before.item(),
        },
        rel=1e-6,
    )


def test_gradients_flow_through_the_variance_of_the_scores() -> None:
    targets = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    logits = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64, requires_grad=True)
    modifier = SequenceScorerVarianceModifier(alpha=0.05)
    modifier.modify(torch.ones(3, dtype=torch.float64), logits, targets, targets >= 0).mean().backward()

    assert logits.grad is not None
    assert logits.grad[0] > 0 > logits.grad[2]  # downhill is to spread them
    assert logits.grad[1].abs() < 1e-12


def test_one_sequence_is_left_as_it_is() -> None:
    batch = scores(rows=1)
    found = SequenceScorerVarianceModifier().modify(*batch)
    found.sum().backward()

    assert torch.equal(found, batch.loss)
    assert batch.logits.grad is not None and batch.logits.grad.isfinite().all()


def test_scores_of_another_shape_are_refused_rather_than_paired_crosswise() -> None:
    batch = scores()

    with pytest.raises(RuntimeError):
        SequenceScorerVarianceModifier().modify(batch.loss, batch.logits[:, None].expand(5, 2), *batch[2:])
