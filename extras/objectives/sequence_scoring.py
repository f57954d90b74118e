"""Scoring sequences: how large a share of a text was filled in by a machine."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from core.batch import Batch
from core.losses import mean_loss
from core.objective import Meter, Modifiers, Objective, Output, report
from extras.filler import Filler
from loss_modifiers import sequence_scorer_target_transform


class SequenceScoring(Objective):
    """Mean squared error of a score between 0 and 1, read from a CLS token that goes before the text.

    A batch is a masked one, as of `Unmasking` with `seed` () beside it: its gaps are filled by a frozen model, and the
    target is the masked share. Or it comes ready made: `input` with CLS and `target` (B,).

    filler:    fills the gaps; None where batches come ready made
    transform: the target is x^4 - 2x^3 + 2x of the masked share x, which tells small shares better apart
    """

    def __init__(
        self, cls_token_id: int, filler: Filler | None, transform: bool = False, modifiers: Modifiers | None = None
    ) -> None:
        self.cls_token_id = cls_token_id
        self.filler = filler
        self.transform = transform
        self.modifiers = modifiers

    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        """Return the loss, and in training how far off the scores are on average."""
        ids, targets = (batch["input"], batch["target"].float()) if self.filler is None else self.filled(batch)
        scores, loss = model(ids, targets)
        if not train:
            return Output(loss, {}, (scores, targets))
        metrics: dict[str, Any] = {"ratio": (scores.detach() - targets).abs().mean()}
        if self.modifiers is not None:
            everyone = torch.ones_like(targets, dtype=torch.bool)
            self.modifiers.inputs = ids
            loss = self.modifiers.modify((scores - targets).square(), scores, targets, everyone)
            loss, metrics = mean_loss(loss, everyone), {**metrics, **report(self.modifiers)}
        return Output(loss, metrics)

    def filled(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return texts with filled gaps, after a CLS token, (B, T + 1), and their targets (B,)."""
        assert self.filler is not None
        mask = batch["target"] >= 0
        filled = self.filler.fill(batch["input"], mask, int(batch["seed"]))
        share = mask.float().mean(dim=1)
        first = torch.full_like(filled[:, :1], self.cls_token_id)
        return torch.cat([first, filled], dim=1), sequence_scorer_target_transform(share) if self.transform else share

    def meter(self, split: str) -> Meter | None:
        """Return what compares scores with targets; of the validation data only."""
        return ScoreMeter() if split == "val" else None


class ScoreMeter(Meter):
    """Pearson correlation, error against that of always giving the mean target, and the scores of untouched texts."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.targets: list[float] = []

    def add(self, batch: Batch, details: Any) -> None:
        """Look at one batch. details: scores (B,), and targets (B,)"""
        scores, targets = details
        self.scores += scores.float().tolist()
        self.targets += targets.tolist()

    def result(self) -> dict[str, float]:
        """Return what was measured; a correlation with or of a constant is 0."""
        scores, targets = np.array(self.scores), np.array(self.targets)
        error, constant = float(np.mean((scores - targets) ** 2)), float(np.var(targets))
        spread = math.sqrt(np.var(scores) * constant)
        together = float(np.mean((scores - scores.mean()) * (targets - targets.mean())))
        found = {
            "val/mse": error,
            "val/constant_mse": constant,
            "val/mse_ratio": error / constant if constant else math.inf if error else 1.0,
            "val/correlation": together / spread if spread else 0.0,
        }
        untouched = scores[targets == 0]
        if len(untouched):
            found["val/zero_mean"] = float(untouched.mean())
            found["val/zero_p90"] = float(np.quantile(untouched, 0.9))
        return found
