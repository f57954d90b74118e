"""Weights by the fraction of valid positions, compared with loops over lists."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_modifiers import MaskRatioWeightModifier
from tests.loss_modifiers.batches import Tokens, detached, quick, row_means, same, std, token_batches, tokens


@quick
@given(
    batch=token_batches,
    power=st.sampled_from([0.0, 0.5, 2.0]),
    limits=st.sampled_from([(0.1, 10.0), (1.2, 1.5), (0.0, math.inf)]),
)
def test_weights_are_a_power_of_the_valid_fraction(batch: Tokens, power: float, limits: tuple[float, float]) -> None:
    shares = [sum(row) / (len(row) + 1e-8) for row in batch.mask.tolist()]
    weights = [min(max((share + 1e-8) ** -power, limits[0]), limits[1]) for share in shares]
    means = row_means(batch.loss.tolist(), batch.mask.tolist())
    modifier = MaskRatioWeightModifier(power, *limits)
    found = modifier.modify(*batch)

    same(found, [weight * mean for weight, mean in zip(weights, means, strict=True)])
    expected = {
        "mean_mask_ratio": sum(shares) / len(shares),
        "min_mask_ratio": min(shares),
        "max_mask_ratio": max(shares),
        "mean_weight": sum(weights) / len(weights),
        "min_weight": min(weights),
        "max_weight": max(weights),
        "weight_std": std(weights),
    }
    assert {name: value.item() for name, value in modifier.metrics().items()} == pytest.approx(expected, rel=1e-6)


def test_the_documented_example() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    loss = torch.ones(3, 4)

    assert MaskRatioWeightModifier().modify(loss, loss, loss, mask).tolist() == pytest.approx([2**0.5, 1.0, 2.0])


def test_metrics_carry_no_gradient() -> None:
    modifier = MaskRatioWeightModifier()
    modifier.modify(*tokens())

    assert detached(modifier.metrics())
