"""Drawing tokens: the frequency of each token, and the tokens that are never drawn."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extras.token_draw import draw_tokens

SHARES = [0.5, 0.3, 0.15, 0.05]
ROWS = torch.tensor(SHARES).log().repeat(4000, 1)


def drawn(**more: Any) -> list[float]:
    """Return the share of each token in 4000 draws."""
    tokens = draw_tokens(ROWS, torch.Generator().manual_seed(0), **more)
    return (tokens.bincount(minlength=4) / len(tokens)).tolist()


@pytest.mark.parametrize(
    ("more", "allowed"),
    [
        ({}, 4),
        ({"top_p": 0.4}, 1),  # the likeliest token is always allowed
        ({"top_p": 0.6}, 2),  # and the token that reaches the probability
        ({"top_p": 0.9}, 3),
        ({"top_p": 0.97}, 4),
        ({"top_k": 1}, 1),
        ({"top_k": 3}, 3),
        ({"top_k": 9}, 4),
        ({"top_k": 3, "top_p": 0.8}, 2),  # two of the three tokens that top_k allows have 0.84 together
    ],
)
def test_allowed_tokens_are_drawn_in_proportion(more: dict[str, Any], allowed: int) -> None:
    total = sum(SHARES[:allowed])

    for share, found in zip(SHARES, drawn(**more), strict=True):
        expected = share / total if share in SHARES[:allowed] else 0.0
        assert abs(found - expected) <= 4 * math.sqrt(expected * (1 - expected) / 4000), (more, share)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature(temperature: float) -> None:
    weights = [share ** (1 / temperature) for share in SHARES]

    for weight, found in zip(weights, drawn(temperature=temperature), strict=True):
        expected = weight / sum(weights)
        assert abs(found - expected) <= 4 * math.sqrt(expected * (1 - expected) / 4000)


@settings(max_examples=40, deadline=None)
@given(
    eighths=st.lists(
        st.integers(-32, 32), min_size=2, max_size=7, unique=True
    ),  # the differences are large enough to rank
    top_k=st.none() | st.integers(1, 8),
    top_p=st.floats(0.05, 1.0),
    temperature=st.floats(0.3, 3.0),
)
def test_only_allowed_tokens_are_drawn(eighths: list[int], top_k: int | None, top_p: float, temperature: float) -> None:
    logits = [number / 8 for number in eighths]
    ranked = sorted(range(len(logits)), key=lambda token: -logits[token])[:top_k]
    weights = [math.exp(logits[token] / temperature) for token in ranked]
    shares = [weight / sum(weights) for weight in weights]
    allowed = {token for place, token in enumerate(ranked) if sum(shares[:place]) < top_p + 1e-9}

    rows = torch.tensor(logits, dtype=torch.float64).repeat(200, 1)
    found = draw_tokens(rows, torch.Generator(), temperature, top_k, top_p)

    assert set(found.tolist()) <= allowed


def test_rows_of_any_shape_are_drawn_independently() -> None:
    answers = torch.tensor([[1, 0, 2], [2, 2, 1]])
    sure = torch.zeros(2, 3, 3).scatter(2, answers[..., None], 100.0)

    for more in ({}, {"top_k": 2}, {"top_p": 0.9}):
        assert torch.equal(draw_tokens(sure, torch.Generator(), **more), answers)
        assert draw_tokens(torch.zeros(0, 5), torch.Generator(), **more).shape == (0,)
