"""Entropies of wrong answers, against loops over lists."""

import math

import torch
from hypothesis import given

from loss_modifiers.wrong_answers import entropy, relative_entropy
from tests.loss_modifiers.batches import Tokens, quick, same, softmax, token_batches, tokens


def plain_entropy(logits: list[float], target: int, eps: float = 1e-9) -> float:
    wrong = [p for number, p in enumerate(softmax(logits)) if number != target]
    rest = sum(wrong)
    return -sum(p / rest * math.log(p / rest + eps) for p in wrong) if rest > eps else 0.0


def plain_relative_entropy(logits: list[float], target: int, eps: float = 1e-8) -> float:
    wrong = [p for number, p in enumerate(softmax(logits)) if number != target]
    rest = sum(wrong)
    shares = [p / (rest + eps) for p in wrong]
    count = sum(q > eps for q in shares)
    if count < 2 or rest <= eps:
        return 0.0
    return min(max(-sum(q * math.log(q + eps) for q in shares) / math.log(count), 0.0), 1.0)


def at_every_position(function: object, batch: Tokens) -> list[list[float]]:
    """Return what a function of one position makes of each; off the mask, of target 0, as the indices are clamped."""
    rows = zip(batch.logits.tolist(), batch.targets.tolist(), strict=True)
    return [[function(x, max(t, 0)) for x, t in zip(row, ts, strict=True)] for row, ts in rows]  # type: ignore[operator]


@quick
@given(batch=token_batches)
def test_entropy_is_in_nats(batch: Tokens) -> None:
    same(entropy(batch.logits, batch.targets), at_every_position(plain_entropy, batch))


@quick
@given(batch=token_batches)
def test_relative_entropy_counts_the_wrong_answers_that_matter(batch: Tokens) -> None:
    same(relative_entropy(batch.logits, batch.targets), at_every_position(plain_relative_entropy, batch))


def test_known_cases() -> None:
    logits = torch.tensor([[[5.0, 1.0, 1.0, 1.0], [0.0, 0.0, 60.0, -60.0], [900.0, 0.0, 0.0, 0.0]]])
    targets = torch.tensor([[0, 3, 0]])  # others alike; one other has it all; nothing left for others

    same(entropy(logits, targets), [[math.log(3), 0.0, 0.0]])
    same(relative_entropy(logits, targets), [[1.0, 0.0, 0.0]])


def test_two_wrong_answers_among_negligible_ones_are_measured_alone() -> None:
    logits, targets = torch.tensor([[[0.0, 2.0, 2.0, -99.0, -99.0]]]), torch.tensor([[0]])

    same(relative_entropy(logits, targets), [[1.0]])


def test_gradients_are_finite_at_the_extremes() -> None:
    logits = torch.tensor([[[90.0, -90.0, -90.0], [0.0, 0.0, 0.0], [-1e4, 1e4, 0.0]]], requires_grad=True)
    targets = torch.tensor([[0, -100, 2]])
    (entropy(logits, targets) + relative_entropy(logits, targets)).sum().backward()

    assert logits.grad is not None and logits.grad.isfinite().all()


def test_half_precision_logits_are_computed_with_in_float32() -> None:
    batch = tokens(share=1.0)
    coarse = batch.logits.detach().bfloat16()
    for function in (entropy, relative_entropy):
        assert torch.equal(function(coarse, batch.targets), function(coarse.float(), batch.targets))
