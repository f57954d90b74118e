"""Weights by a judge of sampled completions, against loops over lists."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from loss_modifiers import Judge, SequenceScoringJudgeWeightModifier
from loss_modifiers.draw import sampled
from tests.loss_modifiers.batches import Tokens, detached, quick, token_batches, tokens

CLS, BLOCK = 9, 4


def scorer(shown: torch.Tensor) -> tuple[torch.Tensor, None]:
    """Score by the tokens shown, CLS first."""
    assert (shown[:, 0] == CLS).all() and shown.shape[1] <= BLOCK
    return (shown[:, 1:].sum(dim=1) * 37 % 101).float() / 101, None


def made(start_iter: int = 0, max_iter: int = 0, **options: float) -> SequenceScoringJudgeWeightModifier:
    judge = Judge(scorer, CLS, BLOCK, transformed=True)
    modifier = SequenceScoringJudgeWeightModifier(judge, start_iter, max_iter, **options)
    modifier.iter_num = 1
    return modifier


def plain_factors(batch: Tokens, eps: float = 1e-6) -> list[float]:
    drawn = sampled(batch.logits.detach(), torch.Generator().manual_seed(1337)).tolist()
    found = []
    for ids, marks in zip(drawn, batch.mask.tolist(), strict=True):
        score = sum(ids[: BLOCK - 1]) * 37 % 101 / 101
        x = max(sum(marks) / (len(marks) + eps), eps)
        found.append(score / min(max(x**4 - 2 * x**3 + 2 * x, eps), 1.0))
    return found


def clamped(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])


@quick
@given(
    batch=token_batches,
    exponent=st.sampled_from([1.0, 0.4, 2.0]),
    iter_num=st.integers(0, 12),
    limits=st.sampled_from([(0.1, 10.0), (0.5, 1.5)]),
)
def test_weights(batch: Tokens, exponent: float, iter_num: int, limits: tuple[float, float]) -> None:
    modifier = made(3, 10, exponent=exponent, min_factor=limits[0], max_factor=limits[1])
    modifier.iter_num = iter_num
    raised = exponent * min(max(iter_num - 3, 0) / 7, 1.0)
    weights = [clamped(factor**raised, limits) for factor in plain_factors(batch)]
    found = modifier.modify(*batch).detach().tolist()

    for row, weight, losses in zip(found, weights, batch.loss.tolist(), strict=True):
        assert row == pytest.approx([weight * loss for loss in losses], rel=1e-5)  # float32


@pytest.mark.parametrize(
    ("iter_num", "expected"), [(0, 0.0), (100, 0.0), (101, 0.015), (150, 0.75), (200, 1.5), (900, 1.5)]
)
def test_the_exponent_grows_from_start_to_end(iter_num: int, expected: float) -> None:
    assert made(100, 200, exponent=1.5).get_exponent(iter_num) == pytest.approx(expected)


def test_an_end_at_the_start_gives_the_full_exponent_at_once() -> None:
    assert [made(5, 5, exponent=2.0).get_exponent(iter_num) for iter_num in (4, 5, 6)] == [0.0, 0.0, 2.0]


def test_a_small_masked_share_weighs_by_what_the_judge_expects_of_it() -> None:
    mask = torch.arange(10)[None] == 3  # a share of 0.1
    batch = tokens(rows=1, length=10, share=1.0)._replace(mask=mask)
    found = {}
    for transformed in (True, False):
        judge = Judge(lambda shown: (torch.tensor([0.5]), None), CLS, BLOCK, transformed)
        modifier = SequenceScoringJudgeWeightModifier(judge, 0, 0, max_factor=99.0)
        modifier.iter_num = 1
        found[transformed] = (modifier.modify(*batch) / batch.loss)[mask].item()

    assert found[True] == pytest.approx(0.5 / (0.1**4 - 2 * 0.1**3 + 2 * 0.1), rel=1e-5)
    assert found[False] == pytest.approx(5.0, rel=1e-5)  # a judge of plain shares


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(ConfigError, match="judge_max_iter=4: wanted at least judge_start_iter=5"):
        made(5, 4)


def test_up_to_the_start_the_judge_is_not_asked() -> None:
    batch = tokens(share=1.0)
    modifier = SequenceScoringJudgeWeightModifier(Judge(lambda shown: 1 / 0, CLS, BLOCK), 5, 9)
    modifier.iter_num = 5

    torch.testing.assert_close(modifier.modify(*batch), batch.loss)
    assert modifier.metrics() == {}


def test_metrics_follow_the_full_exponent() -> None:
    batch, again = tokens(1, rows=5), tokens(1, rows=5)
    modifier = made(0, 10, exponent=2.0)
    modifier.modify(*batch)
    full = sorted(clamped(factor**2, (0.1, 10.0)) for factor in plain_factors(again))
    mean = sum(full) / 5

    assert detached(modifier.metrics())
    assert {name: value.item() for name, value in modifier.metrics().items()} == pytest.approx(
        {"multiplayer_median": full[2], "multiplayer_std_ema": (sum((f - mean) ** 2 for f in full) / 5) ** 0.5},
        rel=1e-5,
    )
    first = modifier.metrics()["multiplayer_median"].item()
    modifier.modify(*tokens(2, rows=5))
    assert abs(modifier.metrics()["multiplayer_median"].item() - first) <= 0.01 * 10.0


def test_gradients_reach_the_logits_through_the_loss_alone() -> None:
    batch = tokens(share=1.0)
    found = made().modify(*batch)
    weights = (found / batch.loss).detach()
    (given,) = torch.autograd.grad(found.sum(), batch.logits, retain_graph=True)
    (expected,) = torch.autograd.grad((weights * batch.loss).sum(), batch.logits)

    torch.testing.assert_close(given, expected)


def test_a_resumed_run_draws_on_where_it_was() -> None:
    whole, first, second = made(), made(), made(seed=5)
    expected = [whole.modify(*tokens(seed)) for seed in range(3)]
    got = [first.modify(*tokens(0))]
    second.load_state_dict(first.state_dict())
    got += [second.modify(*tokens(seed)) for seed in (1, 2)]

    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert {name: value.item() for name, value in second.metrics().items()} == {
        name: value.item() for name, value in whole.metrics().items()
    }


def test_a_state_from_another_kind_of_device_leaves_the_draws_their_own() -> None:
    modifier, fresh = made(), made()
    modifier.load_state_dict({**fresh.state_dict(), "generator": torch.zeros(16, dtype=torch.uint8)})

    assert torch.equal(modifier.modify(*tokens()), fresh.modify(*tokens()))
