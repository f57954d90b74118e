"""Filling masks step by step, with models whose predictions are known, so that each step can be predicted."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from extras.sampling import unmask_sampler
from extras.sampling.unmask_sampler import UnmaskSampler, masked_shares

TEXT, MASK, V = 6, 6, 9  # ids 0 ... 5 are text, 6 is the mask, 7 and 8 are other special tokens


class Forced(nn.Module):
    """Returns fixed logits (T, V), or those that a function computes from the ids; keeps the ids it was called with."""

    def __init__(self, answer: Tensor | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer
        self.seen: list[Tensor] = []

    def forward(self, ids: Tensor) -> tuple[Tensor, None]:
        self.seen.append(ids.clone())
        if isinstance(self.answer, Tensor):
            return self.answer.expand(len(ids), -1, -1), None
        return self.answer(ids), None


def certain(tokens: list[int], confidence: list[float]) -> Tensor:
    """Return logits (T, V) in which tokens[i] has the given probability among the text tokens, the others the rest."""
    logits = torch.full((len(tokens), V), 50.0)  # special tokens are likelier than any text
    for place, (token, share) in enumerate(zip(tokens, confidence, strict=True)):
        logits[place, :TEXT] = math.log((1 - share) / (TEXT - 1))
        logits[place, token] = math.log(share)
    return logits


def sampler(model: nn.Module, shares: list[float], seed: int = 0, **more: Any) -> UnmaskSampler:
    return UnmaskSampler(model, TEXT, MASK, shares, generator=torch.Generator().manual_seed(seed), **more)


def filled(before: Tensor, after: Tensor) -> list[int]:
    """Return the positions of the first row at which masks were filled."""
    return ((before[0] == MASK) & (after[0] != MASK)).nonzero()[:, 0].tolist()


def test_tokens_of_high_confidence_are_kept_first_and_the_prefix_stays() -> None:
    answers, confidence = [5, 5, 0, 1, 2, 3, 4, 0], [0.9, 0.9, 0.5, 0.8, 0.4, 0.7, 0.6, 0.3]
    start = torch.tensor([3, 1, *[MASK] * 6])
    model = Forced(certain(answers, confidence))

    states = list(sampler(model, masked_shares("linear", 3), top_k=1, order="confidence").states(start))

    assert [filled(*pair) for pair in zip([start[None], *states], states, strict=False)] == [[3, 5], [2, 6], [4, 7]]
    assert states[-1].tolist() == [[3, 1, 0, 1, 2, 3, 4, 0]]
    for seen, before in zip(model.seen, [start[None], *states], strict=False):
        assert torch.equal(seen, before)  # every step sees the tokens that the previous step kept


def test_masks_between_given_tokens_are_filled() -> None:
    start = torch.tensor([MASK, 4, MASK, 2])

    *_, last = sampler(Forced(certain([0, 1, 3, 1], [0.9] * 4)), [0.5, 0.0], top_k=1).states(start)

    assert last.tolist() == [[0, 4, 3, 2]]


@pytest.mark.parametrize(
    ("shares", "left"),
    [
        (masked_shares("linear", 4), [6, 4, 2, 0]),
        (masked_shares("linear", 1), [0]),
        (masked_shares("linear", 16), [7, 6, 5, 4, 3, 2, 1, 0]),  # a step that fills nothing is skipped
        (
            masked_shares("cosine", 4),
            [7, 6, 3, 0],
        ),  # 8 cos(pi / 8) = 7.39, 8 cos(pi / 4) = 5.66, 8 cos(3 pi / 8) = 3.06
        ([0.25, 0.5, 0.125, 0.9], [2, 1, 0]),  # without remask nothing is masked again; the last share counts as 0
        ([0.5], [0]),
    ],
)
@pytest.mark.parametrize("order", ["confidence", "random"])
def test_the_number_of_masks_left_after_each_step(shares: list[float], left: list[int], order: str) -> None:
    start = torch.tensor([1, *[MASK] * 8])

    states = list(sampler(Forced(torch.zeros(9, V)), shares, order=order).states(start, count=3))

    assert [(state == MASK).sum(dim=1).tolist() for state in states] == [[count] * 3 for count in left]


@given(steps=st.integers(1, 60))
def test_shares_of_both_schedules(steps: int) -> None:
    linear, cosine = masked_shares("linear", steps), masked_shares("cosine", steps)

    for step in range(1, steps + 1):
        assert linear[step - 1] == pytest.approx((steps - step) / steps, abs=1e-12)
        assert cosine[step - 1] == pytest.approx(math.sin(math.pi / 2 * (1 - step / steps)), abs=1e-12)


def test_kept_tokens_never_change_without_remask() -> None:
    start = torch.full((12,), MASK)
    states = list(sampler(Forced(torch.zeros(12, V)), masked_shares("linear", 6)).states(start, count=2))

    for before, after in pairwise(states):
        kept = before != MASK
        assert torch.equal(before[kept], after[kept])


def test_remask_masks_unlikely_tokens_again_but_never_the_prefix() -> None:
    first = certain([5, 0, 1, 2, 3], [0.9, 0.8, 0.7, 0.6, 0.5])
    doubting = certain([5, 4, 1, 2, 3], [0.9, 0.99, 0.7, 0.6, 0.5])  # then 4 is likelier than the 0 that was written

    def answer(ids: Tensor) -> Tensor:
        return torch.stack([first if row[1] == MASK and (row == MASK).sum() == 4 else doubting for row in ids])

    start = torch.tensor([2, *[MASK] * 4])  # the model would predict 5 instead of 2
    states = list(
        sampler(Forced(answer), masked_shares("linear", 4), top_k=1, order="confidence", remask=True).states(start)
    )

    assert [state[0].tolist() for state in states] == [
        [2, 0, MASK, MASK, MASK],
        [2, MASK, 1, 2, MASK],
        [2, 4, 1, 2, MASK],
        [2, 4, 1, 2, 3],
    ]
    kept = list(sampler(Forced(answer), masked_shares("linear", 4), top_k=1, order="confidence").states(start))
    assert kept[-1][0].tolist() == [2, 0, 1, 2, 3]


def test_remask_follows_shares_that_rise() -> None:
    shares = [0.25, 0.75, 0.0]

    states = list(sampler(Forced(torch.zeros(8, V)), shares, remask=True).states(torch.full((8,), MASK)))

    assert [int((state == MASK).sum()) for state in states] == [2, 6, 0]


def test_random_order_keeps_any_token() -> None:
    model = Forced(certain([0] * 5, [0.9, 0.8, 0.7, 0.6, 0.5]))
    start = torch.full((5,), MASK)

    kept = []
    for seed in range(60):
        first = next(iter(sampler(model, masked_shares("linear", 5), seed, order="random").states(start)))
        kept += filled(start[None], first)

    assert set(kept) == set(range(5)) and len(kept) == 60


@pytest.mark.parametrize("remask", [False, True])
@pytest.mark.parametrize("order", ["confidence", "random"])
def test_special_tokens_are_never_drawn_however_likely(order: str, remask: bool) -> None:
    logits = torch.zeros(10, V)
    logits[:, TEXT:] = 90.0

    *_, last = sampler(Forced(logits), masked_shares("cosine", 5), order=order, remask=remask).states(
        torch.full((10,), MASK), count=20
    )

    assert set(last.flatten().tolist()) == set(range(TEXT))


@pytest.mark.parametrize("order", ["confidence", "random"])
def test_rows_are_drawn_independently_and_follow_the_seed(order: str) -> None:
    def texts(seed: int) -> list[list[int]]:
        *_, last = sampler(Forced(torch.zeros(10, V)), masked_shares("linear", 3), seed, order=order).states(
            torch.full((10,), MASK), count=4
        )
        return last.tolist()

    state = torch.get_rng_state()
    assert texts(1) == texts(1) != texts(2)
    assert len(set(map(tuple, texts(1)))) == 4
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is not used


def test_a_text_without_masks() -> None:
    assert list(sampler(Forced(torch.zeros(3, V)), [0.5, 0.0]).states(torch.tensor([1, 2, 3]))) == []
    *_, last = sampler(Forced(torch.zeros(3, V)), [0.5, 0.0], remask=True).states(torch.tensor([1, 2, 3]))
    assert last.tolist() == [[1, 2, 3]]


def test_temperature_top_k_and_top_p_reach_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def keep(logits: Tensor, generator: torch.Generator, *how: Any) -> Tensor:
        asked.append(how)
        return logits.argmax(dim=-1)

    monkeypatch.setattr(unmask_sampler, "draw_tokens", keep)
    made = sampler(Forced(torch.zeros(2, V)), [0.0], temperature=0.5, top_k=3, top_p=0.7)

    assert len(list(made.states(torch.tensor([MASK, MASK])))) == 1 and asked == [(0.5, 3, 0.7)]
