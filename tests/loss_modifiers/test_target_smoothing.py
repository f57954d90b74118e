"""Smoothing over the complete vocabulary, compared with loops over lists."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_modifiers import TargetSmoothingModifier
from tests.loss_modifiers.batches import Tokens, detached, quick, same, softmax, token_batches, tokens

SPECIAL = st.lists(st.integers(0, 9), max_size=3)


def plain(logits: list[float], target: int, factor: float, special: list[int], padding: int | None) -> float:
    """Return the cross-entropy of one position against the smoothed target."""
    size = len(logits)
    if not 0 <= target < size or target == padding:
        return 0.0
    factor = 0.0 if target in special else factor
    beliefs = [1 - factor if number == target else factor / (size - 1) for number in range(size)]
    return -sum(q * math.log(p) for q, p in zip(beliefs, softmax(logits), strict=True))


@quick
@given(
    batch=token_batches, factor=st.sampled_from([0.0, 0.1, 0.5]), special=SPECIAL, padding=st.sampled_from([-100, 1])
)
def test_it_is_the_cross_entropy_of_smoothed_targets(
    batch: Tokens, factor: float, special: list[int], padding: int
) -> None:
    rows = list(zip(batch.logits.tolist(), batch.targets.tolist(), strict=True))
    expected = [[plain(x, t, factor, special, padding) for x, t in zip(*row, strict=True)] for row in rows]

    same(TargetSmoothingModifier(factor, special, padding_token=padding).modify(*batch), expected)


def test_padding_counts_where_it_is_not_excluded() -> None:
    batch = tokens(share=1.0)
    kept = TargetSmoothingModifier(0.1, exclude_padding=False, padding_token=int(batch.targets[0, 0]))

    assert torch.equal(kept.modify(*batch), TargetSmoothingModifier(0.1).modify(*batch))


def test_changes_of_earlier_modifiers_are_kept() -> None:
    batch = tokens(share=1.0)
    more = batch._replace(loss=batch.loss + 2)

    smoothing = TargetSmoothingModifier(0.2)
    torch.testing.assert_close(smoothing.modify(*more), smoothing.modify(*batch) + 2)


def test_metrics() -> None:
    batch = tokens(seed=5)
    padding = int(batch.targets.max())
    smoothing = TargetSmoothingModifier(0.2, padding_token=padding)
    smoothed = smoothing.modify(*batch)
    found, counts = smoothing.metrics(), batch.mask & (batch.targets != padding)

    assert 0 < counts.sum() < batch.mask.sum()
    same(found["original_loss"], batch.loss[batch.mask].mean().item())
    same(found["smoothed_loss"], smoothed[counts].mean().item())
    assert found["smoothing_factor"].item() == pytest.approx(0.2)
    assert (found["valid_positions"], found["total_positions"]) == (counts.sum(), 12)
    assert detached(found)


def test_gradients_are_those_of_torchs_label_smoothing() -> None:
    batch = tokens(share=1.0, vocab=5)
    TargetSmoothingModifier(0.2).modify(*batch).mean().backward()
    logits = batch.logits.detach().requires_grad_()
    # torch spreads over all V ids, the right one among them: a factor of 0.25 leaves 0.2 to the four others
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), label_smoothing=0.25).backward()

    torch.testing.assert_close(batch.logits.grad, logits.grad)
