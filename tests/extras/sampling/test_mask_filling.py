"""Filling masks: the texts, the candidate that the judge chooses, and the displayed steps."""

import io
from typing import Any

import torch
from torch import Tensor, nn

from extras.sampling.mask_filling import fill_masks
from extras.sampling.step_display import StepDisplay
from extras.sampling.unmask_sampler import UnmaskSampler

MASK = 4
START = torch.tensor([0, MASK, MASK])


class Uniform(nn.Module):
    """An unmasking model that predicts all tokens with equal probability."""

    def forward(self, ids: Tensor) -> tuple[Tensor, None]:
        return torch.zeros(*ids.shape, MASK + 1), None


def decode(ids: list[int]) -> str:
    return "".join("abcd"[number] for number in ids)


def sampler() -> UnmaskSampler:
    return UnmaskSampler(Uniform(), MASK, MASK, [0.5, 0.0], generator=torch.Generator().manual_seed(3))


def fill_three(stream: io.StringIO | None = None, **more: Any) -> list[str]:
    """Return three texts; their steps are written to the stream."""
    display = StepDisplay(stream or io.StringIO(), decode, MASK, blocks=stream is not None)
    return list(fill_masks(sampler(), START, decode, display, num_samples=3, **more))


def test_texts_are_those_of_the_sampler() -> None:
    other, expected = sampler(), []
    for _ in range(3):
        *_, last = other.states(START)
        expected.append(f"{decode(last[0].tolist())}\n---------------")

    assert fill_three() == expected and len(set(expected)) > 1


def test_the_judge_chooses_the_candidate_with_the_lowest_score() -> None:
    seen: list[list[str]] = []

    def judge(ids: Tensor) -> Tensor:
        seen.append([decode(row) for row in ids.tolist()])
        return torch.tensor([0.5, 0.25, 1.0, 0.25])

    texts = fill_three(judge=judge, candidates=4)

    assert texts == [f"{row[1]}\njudge: 0.2500, of 0.2500, 0.2500, 0.5000, 1.0000\n---------------" for row in seen]
    assert len(seen) == 3 and all(len(row) == 4 for row in seen)


def test_the_display_shows_the_steps_of_the_text_that_is_chosen() -> None:
    stream = io.StringIO()

    texts = fill_three(stream, judge=lambda ids: torch.tensor([1.0, 0.0]), candidates=2)

    blocks = stream.getvalue().split("step 0, 2 masked\na██\n")[1:]
    assert [block.splitlines()[-1] for block in blocks] == [text.splitlines()[0] for text in texts]
    assert all("step 1, 1 masked\n" in block and "step 2, 0 masked\n" in block for block in blocks)
