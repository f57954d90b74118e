"""Scores in front of their texts."""

import pytest
import torch

from extras.sampling.score_texts import score_texts
from loss_modifiers import Judge


def test_each_text_has_its_score_in_front(capsys: pytest.CaptureFixture[str]) -> None:
    judge = Judge(lambda ids: (ids.float().mean(dim=1) / 10, None), cls_token_id=0, block_size=8)

    score_texts(judge, ["ab", "c"], [[1, 2], [4]], torch.device("cpu"))

    assert capsys.readouterr().out == "0.1000  ab\n0.2000  c\n"
