"""Scores texts with a sequence scorer."""

from collections.abc import Sequence

import torch

from loss_modifiers import Judge


def score_texts(judge: Judge, texts: Sequence[str], encoded: Sequence[Sequence[int]], device: torch.device) -> None:
    """Print the score of each text in front of it. encoded: the texts' token ids, in the same order"""
    for text, ids in zip(texts, encoded, strict=True):
        print(f"{judge(torch.tensor([ids], device=device)).item():.4f}  {text}", flush=True)
