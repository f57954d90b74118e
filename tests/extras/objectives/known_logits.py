"""A model with known logits, for tests of objectives."""

import torch
from torch import nn
from torch.nn import functional as F


class KnownLogits(nn.Module):
    """Returns the same logits (B, T, V) for every input, and the loss that GPT computes from them."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.logits, F.cross_entropy(self.logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
