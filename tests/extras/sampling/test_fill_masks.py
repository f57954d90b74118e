"""Filling masks, and choosing among several texts."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from extras.sampling.fill_masks import fill_masks
from extras.sampling.step_display import StepDisplay

MASK = 9


class Scripted:
    """A sampler that fills the masks of text number n with n + 1, in two steps."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def states(self, start: torch.Tensor, count: int = 1) -> Iterator[torch.Tensor]:
        self.counts.append(count)
        rows = start.repeat(count, 1)
        yield rows
        yield rows.where(rows != MASK, torch.arange(1, count + 1)[:, None])


def fill(sampler: Scripted, **settings: Any) -> None:
    display = StepDisplay(io.StringIO(), str, MASK)
    fill_masks(sampler, torch.tensor([4, MASK]), str, display, **settings)  # type: ignore[arg-type]


def test_each_text_is_followed_by_the_separator(capsys: pytest.CaptureFixture[str]) -> None:
    sampler = Scripted()
    fill(sampler, num_samples=2)

    assert capsys.readouterr().out == "[4, 1]\n---------------\n" * 2
    assert sampler.counts == [1, 1]


def test_a_judge_takes_the_lowest_score_of_the_candidates(capsys: pytest.CaptureFixture[str]) -> None:
    sampler = Scripted()

    def judge(texts: torch.Tensor) -> torch.Tensor:
        assert texts.tolist() == [[4, 1], [4, 2], [4, 3]]
        return torch.tensor([0.75, 0.25, 0.5])

    fill(sampler, num_samples=1, judge=judge, candidates=3)

    assert capsys.readouterr().out == "[4, 2]\njudge: 0.2500, of 0.2500, 0.5000, 0.7500\n---------------\n"
    assert sampler.counts == [3]
