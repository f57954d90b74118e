"""Drawing tokens: the frequency of each token, and the tokens that are never drawn."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from extras.token_draw import draw_tokens

PROBABILITIES = [0.5, 0.3, 0.15, 0.05]
ROWS = torch.tensor(PROBABILITIES).log().repeat(4000, 1)


@pytest.mark.parametrize("temperature", [0.0, 1e-40])
@pytest.mark.parametrize("more", [{}, {"top_k": 3}, {"top_p": 0.5}])
def test_temperature_0_takes_the_likeliest_token(temperature: float, more: dict[str, Any]) -> None:
    assert frequencies(temperature=temperature, **more) == [1.0, 0.0, 0.0, 0.0]


def test_top_k_0_draws_from_all_tokens() -> None:
    assert frequencies(top_k=0) == frequencies(top_k=None)
    assert frequencies(top_k=0, top_p=0.9) == frequencies(top_p=0.9)


def frequencies(**options: Any) -> list[float]:
    """Return the frequency of each token in 4000 draws."""
    tokens = draw_tokens(ROWS, torch.Generator().manual_seed(0), **options)
    return (tokens.bincount(minlength=4) / len(tokens)).tolist()


@pytest.mark.parametrize(
    ("options", "allowed"),
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
def test_allowed_tokens_are_drawn_in_proportion(options: dict[str, Any], allowed: int) -> None:
    total = sum(PROBABILITIES[:allowed])

    for probability, frequency in zip(PROBABILITIES, frequencies(**options), strict=True):
        expected = probability / total if probability in PROBABILITIES[:allowed] else 0.0
        assert abs(frequency - expected) <= 4 * math.sqrt(expected * (1 - expected) / 4000), (options, probability)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_flattens_or_sharpens_the_probabilities(temperature: float) -> None:
    weights = [probability ** (1 / temperature) for probability in PROBABILITIES]

    for weight, frequency in zip(weights, frequencies(temperature=temperature), strict=True):
        expected = weight / sum(weights)
        assert abs(frequency - expected) <= 4 * math.sqrt(expected * (1 - expected) / 4000)


@settings(max_examples=40, deadline=None)
@given(
    eighths=st.lists(st.integers(-32, 32), min_size=2, max_size=7, unique=True),  # no ties after rounding
    top_k=st.none() | st.integers(1, 8),
    top_p=st.floats(0.05, 1.0),
    temperature=st.floats(0.3, 3.0),
)
def test_only_allowed_tokens_are_drawn(eighths: list[int], top_k: int | None, top_p: float, temperature: float) -> None:
    logits = [number / 8 for number in eighths]
    ranked = sorted(range(len(logits)), key=lambda token: -logits[token])[:top_k]
    weights = [math.exp(logits[token] / temperature) for token in ranked]
    probabilities = [weight / sum(weights) for weight in weights]
    allowed = {token for index, token in enumerate(ranked) if sum(probabilities[:index]) < top_p + 1e-9}

    rows = torch.tensor(logits, dtype=torch.float64).repeat(200, 1)
    drawn = draw_tokens(rows, torch.Generator(), temperature, top_k, top_p)

    assert set(drawn.tolist()) <= allowed


def test_rows_of_any_shape_are_drawn_independently() -> None:
    tokens = torch.tensor([[1, 0, 2], [2, 2, 1]])
    certain = torch.zeros(2, 3, 3).scatter(2, tokens[..., None], 100.0)

    for options in ({}, {"top_k": 2}, {"top_p": 0.9}):
        assert torch.equal(draw_tokens(certain, torch.Generator(), **options), tokens)
        assert draw_tokens(torch.zeros(0, 5), torch.Generator(), **options).shape == (0,)
