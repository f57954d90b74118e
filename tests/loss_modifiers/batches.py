"""Small random batches for the tests of loss modifiers, in float64, and functions over plain lists to compare with."""

import math
from typing import NamedTuple

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch.nn import functional as F

quick = settings(max_examples=40, deadline=None)
TOLERANCE = dict(rtol=1e-6, atol=1e-9)


class Tokens(NamedTuple):
    """Arguments of `modify` in a task with a target per position. logits is a leaf with gradients."""

    loss: torch.Tensor
    logits: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor


class Scores(NamedTuple):
    """Arguments of `modify` in sequence scoring. logits is a leaf with gradients."""

    loss: torch.Tensor
    logits: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor


def tokens(seed: int = 0, rows: int = 3, length: int = 4, vocab: int = 6, share: float = 0.6) -> Tokens:
    """Return a batch whose mask covers `share` of the positions on average; outside it targets are -1 or -100."""
    draw = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(rows, length, vocab, generator=draw, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(vocab, (rows, length), generator=draw)
    mask = torch.rand(rows, length, generator=draw) < share
    targets[~mask] = (-1, -100)[seed % 2]
    loss = F.cross_entropy(logits.flatten(0, 1), targets.clamp(min=0).flatten(), reduction="none").view(rows, length)
    return Tokens(loss * mask, logits, targets, mask)


def scores(seed: int = 0, rows: int = 5, spread: float = 0.3) -> Scores:
    """Return a batch of scores and targets in [0, 1], the scores within `spread` of the targets."""
    draw = torch.Generator().manual_seed(seed)
    targets = torch.rand(rows, generator=draw, dtype=torch.float64)
    off = torch.rand(rows, generator=draw, dtype=torch.float64) - 0.5
    logits = (targets + 2 * spread * off).clamp(0, 1).requires_grad_()
    return Scores((logits - targets) ** 2, logits, targets, torch.ones(rows, dtype=torch.bool))


token_batches = st.builds(
    tokens,
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 4),
    length=st.integers(1, 5),
    vocab=st.integers(3, 8),
    share=st.sampled_from([0.2, 0.6, 1.0]),
)
score_batches = st.builds(
    scores, seed=st.integers(0, 2**31), rows=st.integers(1, 6), spread=st.sampled_from([0.05, 0.5, 1.0])
)


def softmax(logits: list[float]) -> list[float]:
    """Return the probabilities of one position."""
    top = max(logits)
    raised = [math.exp(value - top) for value in logits]
    return [value / sum(raised) for value in raised]


def row_means(values: list[list[float]], mask: list[list[bool]]) -> list[float]:
    """Return each row's mean over its valid positions, 0 for a row without any."""
    kept = [[v for v, m in zip(row, marks, strict=True) if m] for row, marks in zip(values, mask, strict=True)]
    return [sum(row) / len(row) if row else 0.0 for row in kept]


def std(values: list[float]) -> float:
    """Return the sample standard deviation, 0 for a single value."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1))


def same(found: torch.Tensor, expected: object) -> None:
    """Assert that a tensor holds the numbers of a (nested) list, to 1e-6."""
    torch.testing.assert_close(found.detach().double(), torch.tensor(expected, dtype=torch.float64), **TOLERANCE)


def detached(metrics: dict[str, torch.Tensor]) -> bool:
    """Return whether the metrics are 0-dim tensors without gradient."""
    return all(value.dim() == 0 and not value.requires_grad for value in metrics.values())
