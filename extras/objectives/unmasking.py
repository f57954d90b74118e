"""Filling gaps: the training task of masked language models and of discrete diffusion."""

from typing import Any

import numpy as np
import torch
from torch import nn

from core.batch import Batch
from core.losses import cross_entropy, mean_loss, per_sequence
from core.objective import Meter, Modifiers, Objective, Output, report

RATIO_LIMIT = 100.0  # where a signal-to-noise ratio is cut off


class Unmasking(Objective):
    """Cross-entropy of the original tokens at the positions that were masked.

    A batch is a dict of `input` (B, T), what the model sees; `target` (B, T), the original token where one is to be
    predicted and a negative number elsewhere; and, in an evaluation by stages, `stage` (B,), each sequence's stage.

    mean:      tokens: over all masked positions of the batch; sequences: over each sequence's own mean
    modifiers: change the loss that training minimises
    """

    def __init__(self, mean: str = "tokens", modifiers: Modifiers | None = None) -> None:
        self.mean = mean
        self.modifiers = modifiers

    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        """Return the loss, and how many positions of a sequence are masked."""
        inputs, targets = batch["input"], batch["target"]
        mask = targets >= 0
        targets = targets.where(mask, -1)
        logits, loss = model(inputs, targets)
        modifiers = self.modifiers if train else None
        if modifiers is not None or self.mean == "sequences":
            loss = self._own_loss(inputs, logits, targets, mask, modifiers)
        if not train:
            return Output(loss, {}, (logits, targets))
        return Output(loss, {**_mask_counts(mask), **(report(modifiers) if modifiers else {})})

    def _own_loss(
        self, inputs: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor,
        modifiers: Modifiers | None,
    ) -> torch.Tensor:  # fmt: skip
        loss = cross_entropy(logits, targets)
        if modifiers is not None:
            modifiers.inputs = inputs
            loss = modifiers.modify(loss, logits, targets, mask)
        return mean_loss(per_sequence(loss, mask) if self.mean == "sequences" else loss, mask)

    def meter(self, split: str) -> Meter:
        """Return what measures how much better than chance the gaps are filled."""
        return GapMeter(split)


class GapMeter(Meter):
    """Measures predictions of masked positions; the names are those of the train_run line's records.

    Of the validation data: the probability of the correct token (mean; times V: how much better than chance), its ratio
    to the likeliest wrong token's (signal to noise: mean of the ratios cut off at 100, and median), how often it is the
    likeliest (percent), and the loss of every stage. Of the training data: the share of masked positions.
    """

    def __init__(self, split: str) -> None:
        self.split = split
        self.vocab_size = 1
        self.ratios: list[torch.Tensor] = []  # masked share of each sequence
        self.correct: list[torch.Tensor] = []  # at each masked position: probability of the correct token
        self.wrong: list[torch.Tensor] = []  # and of the likeliest wrong one
        self.stages: dict[int, list[float]] = {}  # losses of its sequences

    def add(self, batch: Batch, details: Any) -> None:
        """Look at one batch. details: logits (B, T, V), and targets (B, T), -1 where nothing is masked"""
        logits, targets = details
        mask = targets >= 0
        self.ratios.append(mask.float().mean(dim=1).cpu())
        if self.split == "train":
            return
        self.vocab_size = logits.size(-1)
        at_mask, answers = logits[mask].float().softmax(dim=-1), targets[mask][:, None]  # (N, V), (N, 1)
        self.correct.append(at_mask.gather(1, answers)[:, 0].cpu())
        self.wrong.append(at_mask.scatter(1, answers, 0.0).amax(dim=-1).cpu())
        if "stage" in batch:
            losses = per_sequence(cross_entropy(logits.float(), targets), mask)
            for stage, loss, counts in zip(batch["stage"].tolist(), losses.tolist(), mask.any(1).tolist(), strict=True):
                if counts:
                    self.stages.setdefault(stage, []).append(loss)

    def result(self) -> dict[str, float]:
        """Return what was measured."""
        ratios = torch.cat(self.ratios)
        if self.split == "train":
            return {
                "masked_token_ratio": ratios.mean().item(),
                "min_masked_token_ratio": ratios.min().item(),
                "max_masked_token_ratio": ratios.max().item(),
            }
        correct, wrong = torch.cat(self.correct).double(), torch.cat(self.wrong).double()
        signal = (correct / wrong.clamp(min=1e-10)).clamp(max=RATIO_LIMIT)
        return {
            "model vs random": correct.mean().item() * self.vocab_size,
            "avg correct prob": correct.mean().item(),
            "random prob": 1 / self.vocab_size,
            "signal to noise": signal.mean().item(),
            "signal to noise median": float(np.median(signal.numpy())),
            "most likely accuracy": 100 * (correct > wrong).double().mean().item(),
            **self._by_stage(),
        }

    def _by_stage(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for stage, losses in sorted(self.stages.items()):
            found[f"val/stage_{stage}_loss"] = sum(losses) / len(losses)
            found[f"val/stage_{stage}_samples"] = len(losses)
        return found


def _mask_counts(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return mean, variance, least and most of the masked positions per sequence, on the device."""
    counts = mask.sum(dim=1).float()
    spread = counts.var(correction=1) if len(counts) > 1 else torch.zeros_like(counts[0])
    return {
        "mask_counts/mean": counts.mean(),
        "mask_counts/var": spread,
        "mask_counts/min": counts.min(),
        "mask_counts/max": counts.max(),
    }
