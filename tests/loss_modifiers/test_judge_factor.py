"""Weights by a judge of reconstructions, compared with loops over lists."""

import pytest
import torch
from hypothesis import given

from core.errors import ConfigError
from loss_modifiers import Judge, JudgeFactorModifier
from tests.loss_modifiers.batches import Tokens, detached, quick, row_means, std, token_batches, tokens

CLS, BLOCK = 9, 4


def scorer(shown: torch.Tensor) -> tuple[torch.Tensor, None]:
    """Score by the tokens shown, CLS first; some scores are above 1."""
    assert (shown[:, 0] == CLS).all() and shown.shape[1] <= BLOCK
    return (shown[:, 1:].sum(dim=1) * 37 % 101).float() / 90, None


def judge(*scores: float) -> Judge:
    """Return a judge that gives these scores to any text."""
    return Judge(lambda shown: (torch.tensor(scores), None), CLS, BLOCK)


def inputs_of(batch: Tokens) -> torch.Tensor:
    """Return original tokens, with the mask token 8 at masked positions."""
    return torch.arange(batch.targets.numel()).view_as(batch.targets).remainder(3).masked_fill(batch.mask, 8)


def plain_factors(batch: Tokens) -> list[float]:
    raw, some = [], [any(row) for row in batch.mask.tolist()]
    rows = zip(batch.logits.tolist(), inputs_of(batch).tolist(), batch.mask.tolist(), strict=True)
    for logits, inputs, marks in rows:
        likely = [max(range(len(x)), key=x.__getitem__) for x in logits]
        ids = [new if m else old for new, old, m in zip(likely, inputs, marks, strict=True)]
        score = min(sum(ids[: BLOCK - 1]) * 37 % 101 / 90, 1.0)
        raw.append(min(score / min(sum(marks) / len(marks) + 0.1, 1.0), 10.0))
    mean = sum(f for f, m in zip(raw, some, strict=True) if m) / max(sum(some), 1)
    return [f / mean if mean > 1e-8 else 1.0 for f in raw]


@quick
@given(batch=token_batches)
def test_factors(batch: Tokens) -> None:
    modifier = JudgeFactorModifier(Judge(scorer, CLS, BLOCK))
    modifier.inputs = inputs_of(batch)
    means = row_means(batch.loss.tolist(), batch.mask.tolist())
    expected = [factor * mean for factor, mean in zip(plain_factors(batch), means, strict=True)]

    assert modifier.modify(*batch).detach().tolist() == pytest.approx(expected, rel=1e-5)  # float32


def test_a_judge_that_finds_nothing_wrong_changes_nothing() -> None:
    batch, modifier = tokens(share=1.0), JudgeFactorModifier(judge(0.0, 0.0, 0.0))
    modifier.inputs = inputs_of(batch)

    torch.testing.assert_close(modifier.modify(*batch), batch.loss.mean(dim=1))


def test_without_inputs_it_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="did not set `inputs`: use it with the unmasking objective"):
        JudgeFactorModifier(Judge(scorer, CLS, BLOCK)).modify(*tokens())


def test_metrics() -> None:
    batch, modifier = tokens(6, rows=2), JudgeFactorModifier(judge(0.2, 0.6))
    modifier.inputs = inputs_of(batch)
    modifier.modify(*batch)
    real = [sum(row) / 4 for row in batch.mask.tolist()]
    raw = [score / min(ratio + 0.1, 1.0) for score, ratio in zip((0.2, 0.6), real, strict=True)]
    factors = [2 * value / sum(raw) for value in raw]

    assert real[0] != real[1] and min(real) > 0 and detached(modifier.metrics())
    assert {name: value.item() for name, value in modifier.metrics().items()} == pytest.approx(
        {
            "predicted_ratio_mean": 0.4,
            "predicted_ratio_std": std([0.2, 0.6]),
            "real_ratio_mean": sum(real) / 2,
            "real_ratio_std": std(real),
            "wrongness_mean": 1.0,
            "wrongness_std": std(factors),
        },
        rel=1e-5,
    )


def test_no_gradient_flows_through_the_judge() -> None:
    batch, modifier = tokens(share=1.0), JudgeFactorModifier(Judge(scorer, CLS, BLOCK))
    modifier.inputs = inputs_of(batch)

    assert not modifier.modify(batch.loss.detach(), *batch[1:]).requires_grad


def test_expected_scores_are_on_the_judges_scale() -> None:
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[0, :1] = mask[1, :5] = True
    zeros = torch.zeros(2, 10, dtype=torch.int64)
    modifier = JudgeFactorModifier(Judge(lambda shown: (torch.tensor([0.5, 0.5]), None), None, 10, transformed=True))
    modifier.inputs = zeros

    found = modifier.modify(torch.ones(2, 10), torch.zeros(2, 10, 4), zeros, mask)
    raw = [0.5 / (0.1**4 - 2 * 0.1**3 + 0.2 + 0.1), 0.5 / (0.8125 + 0.1)]
    assert found.tolist() == pytest.approx([2 * value / sum(raw) for value in raw], rel=1e-5)
