"""Scoring texts: a line for each text, and an error before the first line if a text does not fit."""

import pytest
import torch

from core.errors import ConfigError
from data.tokenizers import CharTokenizer
from extras.sampling.prompt_encoder import PromptEncoder
from extras.sampling.text_scores import score_texts

ENCODER = PromptEncoder(CharTokenizer.from_text("abc"), 8, 4)
CPU = torch.device("cpu")


def fraction_of_c(ids: torch.Tensor) -> torch.Tensor:
    """Return the fraction of the character c in each row."""
    return (ids == 2).float().mean(dim=1)


def test_each_text_gets_a_line_with_its_score() -> None:
    texts = [("--start", "abc"), ("line 2", "c"), ("line 3", "ab")]

    assert list(score_texts(fraction_of_c, ENCODER, texts, CPU)) == ["0.3333  abc", "1.0000  c", "0.0000  ab"]


def test_a_text_that_leaves_no_room_for_cls_is_refused_before_any_score() -> None:
    scored: list[torch.Tensor] = []
    lines = score_texts(lambda ids: scored.append(ids) or ids, ENCODER, [("a", "abc"), ("line 2", "abca")], CPU)

    with pytest.raises(ConfigError, match=r"^line 2 has 4 tokens, and the model takes 3 at most"):
        next(lines)
    assert scored == []
