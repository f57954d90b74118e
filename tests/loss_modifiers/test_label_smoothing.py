"""Smoothing without special tokens, compared with loops over lists."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_modifiers import LabelSmoothingModifier
from tests.loss_modifiers.batches import Tokens, detached, quick, same, softmax, token_batches, tokens


def plain(logits: list[float], target: int, factor: float, special: set[int]) -> float:
    """Return the cross-entropy of one position against soft targets with a sum of 1."""
    share = factor / (len(logits) - len(special))
    beliefs = [0.0 if number in special else share for number in range(len(logits))]
    beliefs[target] = 1 - factor
    return -sum(q / sum(beliefs) * math.log(p) for q, p in zip(beliefs, softmax(logits), strict=True))


@quick
@given(
    batch=token_batches,
    factor=st.sampled_from([0.0, 0.1, 0.5]),
    special=st.sets(st.integers(0, 2), max_size=2),
    beyond=st.sampled_from([(), (50, -3)]),
)
def test_it_is_the_cross_entropy_of_smoothed_targets(
    batch: Tokens, factor: float, special: set[int], beyond: tuple[int, ...]
) -> None:
    rows = zip(batch.logits.tolist(), batch.targets.tolist(), batch.mask.tolist(), strict=True)
    expected = [[plain(x, t, factor, special) if m else 0.0 for x, t, m in zip(*row, strict=True)] for row in rows]

    same(LabelSmoothingModifier(factor, [*special, *beyond]).modify(*batch), expected)


def test_a_special_token_of_probability_zero_adds_no_loss() -> None:
    logits = torch.tensor([[[1.0, 2.0, -math.inf, 0.0]]], requires_grad=True)
    targets, mask = torch.tensor([[1]]), torch.tensor([[True]])
    loss = torch.nn.functional.cross_entropy(logits[0], targets[0], reduction="none")[None]
    LabelSmoothingModifier(0.3, special_tokens=[2]).modify(loss, logits, targets, mask).sum().backward()

    assert logits.grad is not None and logits.grad[0, 0, [0, 1, 3]].isfinite().all()
    assert logits.grad[0, 0, 2] == 0.0


def test_changes_of_earlier_modifiers_are_kept() -> None:
    batch, smoothing = tokens(share=1.0), LabelSmoothingModifier(0.2, [1])
    more = batch._replace(loss=batch.loss + 2)

    torch.testing.assert_close(smoothing.modify(*more), smoothing.modify(*batch) + 2)


def test_metrics() -> None:
    batch, smoothing = tokens(seed=5), LabelSmoothingModifier(0.2, [1])
    smoothed = smoothing.modify(*batch)

    same(smoothing.metrics()["original_loss"], batch.loss[batch.mask].mean().item())
    same(smoothing.metrics()["smoothed_loss"], smoothed[batch.mask].mean().item())
    assert smoothing.metrics()["valid_positions"] == batch.mask.sum()
    assert detached(smoothing.metrics())
