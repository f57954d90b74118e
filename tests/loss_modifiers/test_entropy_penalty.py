"""The growing penalty on concentrated wrong tokens, compared with loops over lists."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loss_modifiers import EntropyPenaltyModifier
from tests.loss_modifiers.batches import Tokens, detached, quick, row_means, same, token_batches, tokens
from tests.loss_modifiers.test_wrong_tokens import at_every_position, plain_entropy


@pytest.mark.parametrize(
    ("iter_num", "expected"),
    [(0, 0.0), (99, 0.0), (100, 0.0), (150, 0.75), (199, 1.485), (200, 1.5), (9999, 1.5)],
)
def test_the_penalty_grows_from_start_to_end(iter_num: int, expected: float) -> None:
    assert EntropyPenaltyModifier(1.5, 100, 200).get_penalty(iter_num) == pytest.approx(expected)


@pytest.mark.parametrize(("iter_num", "expected"), [(199, 0.0), (200, 3.0), (250, 3.0)])
def test_a_penalty_that_starts_at_or_after_the_end_is_full_at_once(iter_num: int, expected: float) -> None:
    assert EntropyPenaltyModifier(3.0, 200, 200).get_penalty(iter_num) == expected
    assert EntropyPenaltyModifier(3.0, 200, 100).get_penalty(iter_num) == expected


@quick
@given(batch=token_batches, iter_num=st.integers(0, 12))
def test_multipliers(batch: Tokens, iter_num: int) -> None:
    modifier = EntropyPenaltyModifier(2.0, 3, 10, ema_factor=0.9)
    modifier.iter_num = iter_num
    penalty = 0.0 if iter_num < 3 else min(2.0, 2.0 * (iter_num - 3) / 7)
    largest = math.log(batch.logits.shape[-1] - 1)
    entropies = row_means(at_every_position(plain_entropy, batch), batch.mask.tolist())
    multipliers = [1 + penalty * (largest - h) / largest for h in entropies]
    counted = [m for m, row in zip(multipliers, batch.mask.tolist(), strict=True) if any(row)]
    mean = sum(counted) / max(len(counted), 1)

    rows = zip(multipliers, batch.loss.tolist(), strict=True)
    same(modifier.modify(*batch), [[m * loss for loss in row] for m, row in rows])
    same(modifier.metrics()["entropy_penalty"], penalty)
    same(modifier.metrics()["multiplier_ema"], 0.9 + 0.1 * mean)
    assert detached(modifier.metrics())


def test_gradients_flow_through_the_multiplier() -> None:
    batch, modifier = tokens(share=1.0), EntropyPenaltyModifier(1.0, 0, 0)
    modifier.modify(batch.loss.detach(), *batch[1:]).mean().backward()

    assert batch.logits.grad is not None and batch.logits.grad.isfinite().all()
    assert batch.logits.grad.abs().sum() > 0


def test_a_vocabulary_of_two_tokens_has_no_penalty() -> None:
    batch = tokens(vocab=2, share=1.0)

    torch.testing.assert_close(EntropyPenaltyModifier(1.0, 0, 0).modify(*batch), batch.loss)


def test_the_average_continues_after_a_resume() -> None:
    whole, first, second = (EntropyPenaltyModifier(1.0, 0, 0) for _ in range(3))
    for seed in (1, 2):
        whole.modify(*tokens(seed))
    first.modify(*tokens(1))
    second.load_state_dict(first.state_dict())
    second.modify(*tokens(2))

    assert torch.equal(second.metrics()["multiplier_ema"], whole.metrics()["multiplier_ema"])
    assert second.metrics()["multiplier_ema"] != 1.0
