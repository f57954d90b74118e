"""Draws from logits: as often as the softmax says, each with a generator of its own."""

import math

import torch

from loss_modifiers.draw import sampled


def test_tokens_are_drawn_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, -math.inf])
    found = sampled(logits.expand(4, 10_000, 5), torch.Generator().manual_seed(0))
    shares = found.flatten().bincount(minlength=5) / 40_000

    torch.testing.assert_close(shares, logits.softmax(0), atol=0.01, rtol=0)
    assert found.shape == (4, 10_000) and shares[4] == 0


def test_draws_use_their_generator_and_not_the_global_one() -> None:
    logits, before = torch.zeros(2, 50, 7), torch.get_rng_state()
    one, again, other = (sampled(logits, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))

    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_broken_logits_still_give_token_ids() -> None:
    found = sampled(torch.full((1, 3, 4), math.nan), torch.Generator())

    assert ((found >= 0) & (found < 4)).all()
