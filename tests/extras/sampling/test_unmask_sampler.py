"""Filling masks step by step, with models whose logits are known."""

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


class FixedLogits(nn.Module):
    """Returns fixed logits (T, V), or those that a function computes from the ids; records the ids of each call."""

    def __init__(self, logits: Tensor | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.logits = logits
        self.seen: list[Tensor] = []

    def forward(self, ids: Tensor) -> tuple[Tensor, None]:
        self.seen.append(ids.clone())
        if isinstance(self.logits, Tensor):
            return self.logits.expand(len(ids), -1, -1), None
        return self.logits(ids), None


def certain(tokens: list[int], confidence: list[float]) -> Tensor:
    """Return logits (T, V) in which tokens[i] has the given probability among the text tokens, the others the rest."""
    logits = torch.full((len(tokens), V), 50.0)  # special tokens have the highest logits
    for position, (token, probability) in enumerate(zip(tokens, confidence, strict=True)):
        logits[position, :TEXT] = math.log((1 - probability) / (TEXT - 1))
        logits[position, token] = math.log(probability)
    return logits


def sampler(model: nn.Module, shares: list[float], seed: int = 0, **more: Any) -> UnmaskSampler:
    return UnmaskSampler(model, TEXT, MASK, shares, generator=torch.Generator().manual_seed(seed), **more)


def filled(before: Tensor, after: Tensor) -> list[int]:
    """Return the positions of the first row at which masks were filled."""
    return ((before[0] == MASK) & (after[0] != MASK)).nonzero()[:, 0].tolist()


def test_tokens_of_high_confidence_are_kept_first_and_the_prefix_stays() -> None:
    tokens, confidence = [5, 5, 0, 1, 2, 3, 4, 0], [0.9, 0.9, 0.5, 0.8, 0.4, 0.7, 0.6, 0.3]
    start = torch.tensor([3, 1, *[MASK] * 6])
    model = FixedLogits(certain(tokens, confidence))

    states = list(sampler(model, masked_shares("linear", 3), top_k=1, order="confidence").states(start))

    assert [filled(*pair) for pair in zip([start[None], *states], states, strict=False)] == [[3, 5], [2, 6], [4, 7]]
    assert states[-1].tolist() == [[3, 1, 0, 1, 2, 3, 4, 0]]
    for seen, before in zip(model.seen, [start[None], *states], strict=False):
        assert torch.equal(seen, before)  # the input of a step is the state after the previous step


def test_masks_between_given_tokens_are_filled() -> None:
    start = torch.tensor([MASK, 4, MASK, 2])

    *_, last = sampler(FixedLogits(certain([0, 1, 3, 1], [0.9] * 4)), [0.5, 0.0], top_k=1).states(start)

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

    states = list(sampler(FixedLogits(torch.zeros(9, V)), shares, order=order).states(start, count=3))

    assert [(state == MASK).sum(dim=1).tolist() for state in states] == [[count] * 3 for count in left]


@given(steps=st.integers(1, 60))
def test_masked_shares_follow_the_schedule(steps: int) -> None:
    linear, cosine = masked_shares("linear", steps), masked_shares("cosine", steps)

    for step in range(1, steps + 1):
        assert linear[step - 1] == pytest.approx((steps - step) / steps, abs=1e-12)
        assert cosine[step - 1] == pytest.approx(math.sin(math.pi / 2 * (1 - step / steps)), abs=1e-12)


def test_kept_tokens_never_change_without_remask() -> None:
    start = torch.full((12,), MASK)
    states = list(sampler(FixedLogits(torch.zeros(12, V)), masked_shares("linear", 6)).states(start, count=2))

    assert len(states) == 6
    for before, after in pairwise(states):
        kept = before != MASK
        assert torch.equal(before[kept], after[kept])


def test_remask_masks_unlikely_tokens_again_but_never_the_prefix() -> None:
    first = certain([5, 0, 1, 2, 3], [0.9, 0.8, 0.7, 0.6, 0.5])
    second = certain([5, 4, 1, 2, 3], [0.9, 0.99, 0.7, 0.6, 0.5])  # then 4 is likelier than the 0 that was written

    def logits(ids: Tensor) -> Tensor:
        return torch.stack([first if row[1] == MASK and (row == MASK).sum() == 4 else second for row in ids])

    start = torch.tensor([2, *[MASK] * 4])  # the model would predict 5 instead of 2
    states = list(
        sampler(FixedLogits(logits), masked_shares("linear", 4), top_k=1, order="confidence", remask=True).states(start)
    )

    assert [state[0].tolist() for state in states] == [
        [2, 0, MASK, MASK, MASK],
        [2, MASK, 1, 2, MASK],
        [2, 4, 1, 2, MASK],
        [2, 4, 1, 2, 3],
    ]
    kept = list(sampler(FixedLogits(logits), masked_shares("linear", 4), top_k=1, order="confidence").states(start))
    assert kept[-1][0].tolist() == [2, 0, 1, 2, 3]


def test_remask_follows_increasing_shares() -> None:
    shares = [0.25, 0.75, 0.0]

    states = list(sampler(FixedLogits(torch.zeros(8, V)), shares, remask=True).states(torch.full((8,), MASK)))

    assert [int((state == MASK).sum()) for state in states] == [2, 6, 0]


def test_random_order_can_keep_any_token_first() -> None:
    model = FixedLogits(certain([0] * 5, [0.9, 0.8, 0.7, 0.6, 0.5]))
    start = torch.full((5,), MASK)

    kept = []
    for seed in range(60):
        first = next(iter(sampler(model, masked_shares("linear", 5), seed, order="random").states(start)))
        kept += filled(start[None], first)

    assert set(kept) == set(range(5)) and len(kept) == 60


@pytest.mark.parametrize("remask", [False, True])
@pytest.mark.parametrize("order", ["confidence", "random"])
def test_special_tokens_are_never_drawn(order: str, remask: bool) -> None:
    logits = torch.zeros(10, V)
    logits[:, TEXT:] = 90.0

    *_, last = sampler(FixedLogits(logits), masked_shares("cosine", 5), order=order, remask=remask).states(
        torch.full((10,), MASK), count=20
    )

    assert set(last.flatten().tolist()) == set(range(TEXT))


@pytest.mark.parametrize("order", ["confidence", "random"])
def test_rows_are_drawn_independently_and_follow_the_seed(order: str) -> None:
    def texts(seed: int) -> list[list[int]]:
        *_, last = sampler(FixedLogits(torch.zeros(10, V)), masked_shares("linear", 3), seed, order=order).states(
            torch.full((10,), MASK), count=4
        )
        return last.tolist()

    state = torch.get_rng_state()
    assert texts(1) == texts(1) != texts(2)
    assert len(set(map(tuple, texts(1)))) == 4
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is not used


def test_a_text_without_masks_does_not_change() -> None:
    assert list(sampler(FixedLogits(torch.zeros(3, V)), [0.5, 0.0]).states(torch.tensor([1, 2, 3]))) == []
    *_, last = sampler(FixedLogits(torch.zeros(3, V)), [0.5, 0.0], remask=True).states(torch.tensor([1, 2, 3]))
    assert last.tolist() == [[1, 2, 3]]


def test_temperature_top_k_and_top_p_reach_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = []

    def record_settings(logits: Tensor, generator: torch.Generator, *arguments: Any) -> Tensor:
        settings.append(arguments)
        return logits.argmax(dim=-1)

    monkeypatch.setattr(unmask_sampler, "draw_tokens", record_settings)
    with_settings = sampler(FixedLogits(torch.zeros(2, V)), [0.0], temperature=0.5, top_k=3, top_p=0.7)

    assert len(list(with_settings.states(torch.tensor([MASK, MASK])))) == 1 and settings == [(0.5, 3, 0.7)]
