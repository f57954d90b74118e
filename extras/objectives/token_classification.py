"""Labelling tokens: which of them were replaced, or any other classes that a data set brings."""

from typing import Any

import torch
from torch import nn

from core.batch import Batch
from core.losses import cross_entropy, mean_loss, per_sequence
from core.objective import Meter, Modifiers, Objective, Output, report


class TokenClassification(Objective):
    """Cross-entropy of every token's class; a batch is a dict of `input` and `target`, (B, T), negative: no class.

    balanced:  weigh classes by the inverse of how often they occur in the batch, so that a rare one counts as much
    modifiers: change the loss that training minimises
    """

    def __init__(self, num_token_classes: int, balanced: bool = True, modifiers: Modifiers | None = None) -> None:
        self.num_token_classes = num_token_classes
        self.balanced = balanced
        self.modifiers = modifiers

    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        """Return the mean over the labelled positions, weighted by class."""
        mask = batch["target"] >= 0
        targets = batch["target"].where(mask, -1)
        logits, loss = model(batch["input"], targets)  # (B, T, classes)
        modifiers = self.modifiers if train else None
        if self.balanced or modifiers is not None:
            loss = cross_entropy(logits, targets)
            if modifiers is not None:
                modifiers.inputs = batch["input"]
                loss = modifiers.modify(loss, logits, targets, mask)
            if self.balanced:  # after the modifiers: what smoothing takes from a class, it takes in proportion
                weights = self._weights(targets, mask)
                loss = loss * (weights if loss.dim() == 2 else per_sequence(weights, mask))
            loss = mean_loss(loss, mask)
        return Output(loss, report(modifiers) if modifiers else {}, None if train else (logits, targets))

    def _weights(self, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return every position's weight (B, T), 1 on average over the labelled ones."""
        classes = targets.clamp(min=0)
        counts = nn.functional.one_hot(classes, self.num_token_classes).mul(mask[..., None]).sum(dim=(0, 1))
        weights = (1 / counts.clamp(min=1))[classes] * mask
        return weights * mask.sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)

    def meter(self, split: str) -> Meter | None:
        """Return what counts hits and misses; of the validation data only."""
        return ClassMeter(self.num_token_classes) if split == "val" else None


class ClassMeter(Meter):
    """Precision, recall and F1 of every class and their means, beside always naming the most frequent class."""

    def __init__(self, num_token_classes: int) -> None:
        self.confusion = torch.zeros(num_token_classes, num_token_classes, dtype=torch.int64)  # (target, prediction)

    def add(self, batch: Batch, details: Any) -> None:
        """Look at one batch. details: logits (B, T, classes), and targets (B, T), -1 where there is no class"""
        logits, targets = details
        labelled, classes = targets >= 0, len(self.confusion)
        pairs = targets[labelled] * classes + logits.argmax(dim=-1)[labelled]
        self.confusion += pairs.bincount(minlength=classes**2).view(classes, classes).cpu()

    def result(self) -> dict[str, float]:
        """Return what was counted, each between 0 and 1."""
        hits, total = self.confusion.diagonal().double(), max(int(self.confusion.sum()), 1)
        wanted, named = self.confusion.sum(dim=1).double(), self.confusion.sum(dim=0).double()
        precision, recall = hits / named.clamp(min=1), hits / wanted.clamp(min=1)
        f1 = 2 * hits / (named + wanted).clamp(min=1)
        majority = wanted.argmax()  # a constant answer is right in all of its class, and scores nothing in the others
        found = {
            "val/accuracy": hits.sum().item() / total,
            "val/precision": precision.mean().item(),
            "val/recall": recall.mean().item(),
            "val/f1": f1.mean().item(),
            "val/majority_accuracy": wanted[majority].item() / total,
            "val/majority_f1": (2 * wanted[majority] / (total + wanted[majority])).item() / len(wanted),
        }
        for number in range(len(wanted)):
            found[f"val/precision_class_{number}"] = precision[number].item()
            found[f"val/recall_class_{number}"] = recall[number].item()
            found[f"val/f1_class_{number}"] = f1[number].item()
        return found
