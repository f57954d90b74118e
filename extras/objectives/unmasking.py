"""Unmasking: predict masked tokens, as masked language models and discrete diffusion do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from core.batch import Batch, has_tensors
from core.losses import all_finite, cross_entropy, mean_loss, per_sequence
from core.objective import Meter, Modifiers, Objective, Output, report

RATIO_LIMIT = 100.0  # maximum signal-to-noise ratio of a position


class Unmasking(Objective):
    """Mean cross-entropy of the original tokens at the masked positions, by default the model's own loss.

    A batch is a dict of `input` (B, T), the masked text; `target` (B, T), the original token at masked positions and a
    negative number elsewhere; and, in an evaluation by stages, `stage` (B,), the stage of each sequence.

    mean:         tokens: over all masked positions of the batch; sequences: over the means of the sequences
    modifiers:    change the training loss
    check_logits: `check_logits(logits) -> flag`, a bool scalar on the device, reported as `finite` in training
    """

    def __init__(
        self,
        mean: str = "tokens",
        modifiers: Modifiers | None = None,
        check_logits: Callable[[torch.Tensor], torch.Tensor] = all_finite,
    ) -> None:
        self.mean = mean
        self.modifiers = modifiers
        self.check_logits = check_logits

    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        """Return the loss; in training also statistics of the number of masked positions per sequence."""
        inputs, targets = batch["input"], batch["target"]
        mask = targets >= 0
        targets = targets.where(mask, -1)
        logits, loss = model(inputs, targets)
        modifiers = self.modifiers if train else None
        if modifiers is not None or self.mean == "sequences":
            loss = self._masked_loss(inputs, logits, targets, mask, modifiers)
        if not train:
            return Output(loss, {}, (logits, targets))
        metrics = {**_mask_counts(mask), "finite": self.check_logits(logits.detach())}
        return Output(loss, {**metrics, **(report(modifiers) if modifiers else {})})

    def takes(self, batch: Batch) -> bool:
        return has_tensors(batch, "input", "target")

    def _masked_loss(
        self,
        inputs: torch.Tensor,
        logits: torch.Tensor,
        targets: torch.Tensor,
        mask: torch.Tensor,
        modifiers: Modifiers | None,
    ) -> torch.Tensor:
        loss = cross_entropy(logits, targets)
        if modifiers is not None:
            modifiers.inputs = inputs
            loss = modifiers.modify(loss, logits, targets, mask)
        return mean_loss(per_sequence(loss, mask) if self.mean == "sequences" else loss, mask)

    def meter(self, split: str) -> Meter:
        """Return an `UnmaskingMeter` for the split."""
        return UnmaskingMeter(split)


class UnmaskingMeter(Meter):
    """Measures the predictions at masked positions; the metrics have the names of the train_run line.

    Validation data: the mean probability of the correct token, and this probability times V (how much better than
    random); the ratio of this probability to that of the likeliest wrong token, limited to 100 (signal to noise: mean
    and median); how often the correct token is the likeliest (percent); the mean loss of every stage.
    Training data: the share of masked positions (mean, minimum, maximum over sequences).
    """

    def __init__(self, split: str) -> None:
        self.split = split
        self.vocab_size = 1
        self.ratios: list[torch.Tensor] = []  # masked share of each sequence
        self.correct: list[torch.Tensor] = []  # probability of the correct token at each masked position
        self.wrong: list[torch.Tensor] = []  # probability of the likeliest wrong token there
        self.stages: dict[int, list[float]] = {}  # losses of the sequences of each stage

    def add(self, batch: Batch, details: Any) -> None:
        """Add one batch. details: logits (B, T, V), and targets (B, T), -1 at positions that are not masked"""
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
        """Return the metrics of the split."""
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
        metrics: dict[str, float] = {}
        for stage, losses in sorted(self.stages.items()):
            metrics[f"val/stage_{stage}_loss"] = sum(losses) / len(losses)
            metrics[f"val/stage_{stage}_samples"] = len(losses)
        return metrics


def _mask_counts(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return mean, variance, minimum and maximum of the number of masked positions per sequence, on the device."""
    counts = mask.sum(dim=1).float()
    spread = counts.var(correction=1) if len(counts) > 1 else torch.zeros_like(counts[0])
    return {
        "mask_counts/mean": counts.mean(),
        "mask_counts/var": spread,
        "mask_counts/min": counts.min(),
        "mask_counts/max": counts.max(),
    }
