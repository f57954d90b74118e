"""What is printed of a text's classes."""

from typing import Any

import pytest
import torch
from torch import nn

from extras.sampling.label_tokens import label_tokens


class Odd(nn.Module):
    """Finds odd token ids replaced."""

    def forward(self, ids: torch.Tensor) -> Any:
        return torch.stack([1.0 - ids % 2, ids % 2.0], dim=-1) * 9, None


def label(**settings: Any) -> None:
    options = dict(in_colours=False, show_probabilities=False) | settings
    label_tokens(Odd(), torch.tensor([2, 3]), lambda ids: "abcd"[ids[0]], **options)


def test_without_colours_there_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    label()

    assert capsys.readouterr().out == "0  'c'\n1  'd'\n"


def test_colours_come_with_a_legend_and_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    label(in_colours=True)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("c\x1b[") and "class 0: 1" in lines[1] and len(lines) == 2


def test_probabilities_and_an_original_are_added(capsys: pytest.CaptureFixture[str]) -> None:
    label(in_colours=True, show_probabilities=True, original=[2, 2])

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[2].split()[2:] == ["0.9999", "0.0001"]
    assert lines[-1] == "accuracy 1.0000: 1 of 1 replaced tokens found, 0 others taken for replaced"
