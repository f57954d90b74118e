"""Continuing a prompt, in nanoGPT's lines."""

from typing import Any

import pytest
import torch

from core.errors import ConfigError
from extras.sampling.continue_text import continue_text


class Counting:
    """A model that counts on from the last token."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def generate(self, ids: torch.Tensor, max_new_tokens: int, temperature: float, top_k: int | None) -> torch.Tensor:
        self.asked.append((temperature, top_k))
        return torch.cat([ids, ids[:, -1:] + torch.arange(1, max_new_tokens + 1)], dim=1)


def test_each_sample_is_followed_by_nanogpts_separator(capsys: pytest.CaptureFixture[str]) -> None:
    model = Counting()
    settings = dict(num_samples=2, max_new_tokens=2, temperature=0.5, top_k=7)

    continue_text(model, torch.tensor([3, 4]), str, **settings)  # type: ignore[arg-type]

    assert capsys.readouterr().out == "[3, 4, 5, 6]\n---------------\n" * 2
    assert model.asked == [(0.5, 7)] * 2


def test_an_empty_prompt_cannot_be_continued() -> None:
    with pytest.raises(ConfigError, match="^--start is empty: give the model at least one character to continue$"):
        continue_text(Counting(), torch.tensor([]), str, num_samples=1, max_new_tokens=1, temperature=1.0, top_k=None)
