"""Sequence scoring: predict the share of a text's tokens that a model has filled in."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from core.batch import Batch, has_tensors
from core.losses import all_finite, mean_loss
from core.objective import Meter, Modifiers, Objective, Output, report
from extras.filler import Filler
from loss_modifiers import sequence_scorer_target_transform


class SequenceScoring(Objective):
    """Mean squared error of a score between 0 and 1, read from a CLS token in front of the text.

    With a filler, a batch is masked as for `Unmasking`, and has a `seed` (): the filler fills the masked positions, and
    the target is the masked share. Without a filler, a batch has `input`, which starts with CLS, and `target` (B,).

    transform:    the target is x^4 - 2x^3 + 2x of the masked share x, which separates small shares more clearly
    check_logits: `check_logits(scores) -> flag`, a bool scalar on the device, reported as `finite` in training
    """

    def __init__(
        self,
        cls_token_id: int,
        filler: Filler | None,
        transform: bool = False,
        modifiers: Modifiers | None = None,
        check_logits: Callable[[torch.Tensor], torch.Tensor] = all_finite,
    ) -> None:
        self.cls_token_id = cls_token_id
        self.filler = filler
        self.transform = transform
        self.modifiers = modifiers
        self.check_logits = check_logits

    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        """Return the loss; in training also `ratio`, the mean absolute error of the scores."""
        ids, targets = (batch["input"], batch["target"].float()) if self.filler is None else self._fill(batch)
        scores, loss = model(ids, targets)
        if not train:
            return Output(loss, {}, (scores, targets))
        metrics: dict[str, Any] = {
            "ratio": (scores.detach() - targets).abs().mean(),
            "finite": self.check_logits(scores.detach()),
        }
        if self.modifiers is not None:
            every_text = torch.ones_like(targets, dtype=torch.bool)
            self.modifiers.inputs = ids
            loss = self.modifiers.modify((scores - targets).square(), scores, targets, every_text)
            loss, metrics = mean_loss(loss, every_text), {**metrics, **report(self.modifiers)}
        return Output(loss, metrics)

    def takes(self, batch: Batch) -> bool:
        return has_tensors(batch, "input", "target", *(["seed"] if self.filler else []))

    def _fill(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return CLS and the filled texts (B, T + 1), and their targets (B,)."""
        assert self.filler is not None
        mask = batch["target"] >= 0
        filled = self.filler.fill(batch["input"], mask, int(batch["seed"]))
        share = mask.float().mean(dim=1)
        first = torch.full_like(filled[:, :1], self.cls_token_id)
        return torch.cat([first, filled], dim=1), sequence_scorer_target_transform(share) if self.transform else share

    def meter(self, split: str) -> Meter | None:
        """Return a `ScoreMeter` for the validation data, None for the training data."""
        return ScoreMeter() if split == "val" else None


class ScoreMeter(Meter):
    """Measures scores against targets: Pearson correlation, squared error, and the scores of untouched texts.

    The squared error is also given relative to a predictor that always returns the mean target.
    """

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.targets: list[float] = []

    def add(self, batch: Batch, details: Any) -> None:
        """Add one batch. details: scores (B,) and targets (B,)"""
        scores, targets = details
        self.scores += scores.float().tolist()
        self.targets += targets.tolist()

    def result(self) -> dict[str, float]:
        """Return the metrics; the correlation is 0 if all scores or all targets are equal."""
        scores, targets = np.array(self.scores), np.array(self.targets)
        error, constant = float(np.mean((scores - targets) ** 2)), float(np.var(targets))
        spread = math.sqrt(np.var(scores) * constant)
        covariance = float(np.mean((scores - scores.mean()) * (targets - targets.mean())))
        metrics = {
            "val/mse": error,
            "val/constant_mse": constant,
            "val/mse_ratio": error / constant if constant else math.inf if error else 1.0,
            "val/correlation": covariance / spread if spread else 0.0,
        }
        untouched = scores[targets == 0]
        if len(untouched):
            metrics["val/zero_mean"] = float(untouched.mean())
            metrics["val/zero_p90"] = float(np.quantile(untouched, 0.9))
        return metrics
