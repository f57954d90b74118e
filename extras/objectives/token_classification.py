"""Token classification: predict which tokens were replaced, or any other class per token."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from core.batch import Batch, has_tensors
from core.losses import all_finite, cross_entropy, mean_loss, per_sequence
from core.objective import Meter, Modifiers, Objective, Output, report


class TokenClassification(Objective):
    """Mean cross-entropy of the class of every labelled token.

    A batch is a dict of `input` and `target`, each (B, T); a negative target has no label.

    balanced:     weight each class by the inverse of its frequency in the batch, so that all classes count equally
    modifiers:    change the training loss
    check_logits: `check_logits(logits) -> flag`, a bool scalar on the device, reported as `finite` in training
    """

    def __init__(
        self,
        num_token_classes: int,
        balanced: bool = True,
        modifiers: Modifiers | None = None,
        check_logits: Callable[[torch.Tensor], torch.Tensor] = all_finite,
    ) -> None:
        self.num_token_classes = num_token_classes
        self.balanced = balanced
        self.modifiers = modifiers
        self.check_logits = check_logits

    def __call__(self, model: nn.Module, batch: Batch, train: bool) -> Output:
        """Return the mean loss over the labelled positions, weighted by class if `balanced`."""
        mask = batch["target"] >= 0
        targets = batch["target"].where(mask, -1)
        logits, loss = model(batch["input"], targets)  # (B, T, classes)
        modifiers = self.modifiers if train else None
        if self.balanced or modifiers is not None:
            loss = cross_entropy(logits, targets)
            if modifiers is not None:
                modifiers.inputs = batch["input"]
                loss = modifiers.modify(loss, logits, targets, mask)
            if self.balanced:  # after the modifiers, so that label smoothing changes all classes in proportion
                weights = self._weights(targets, mask)
                loss = loss * (weights if loss.dim() == 2 else per_sequence(weights, mask))
            loss = mean_loss(loss, mask)
        if not train:
            return Output(loss, {}, (logits, targets))
        return Output(loss, {"finite": self.check_logits(logits.detach()), **(report(modifiers) if modifiers else {})})

    def takes(self, batch: Batch) -> bool:
        return has_tensors(batch, "input", "target")

    def _weights(self, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the weight of every position (B, T); their mean over the labelled positions is 1."""
        classes = targets.clamp(min=0)
        counts = nn.functional.one_hot(classes, self.num_token_classes).mul(mask[..., None]).sum(dim=(0, 1))
        weights = (1 / counts.clamp(min=1))[classes] * mask
        return weights * mask.sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)

    def meter(self, split: str) -> Meter | None:
        """Return a `ClassMeter` for the validation data, None for the training data."""
        return ClassMeter(self.num_token_classes) if split == "val" else None


class ClassMeter(Meter):
    """Measures accuracy, and precision, recall and F1 of every class and their means.

    The baseline for accuracy and F1 is a classifier that always predicts the most frequent class.
    """

    def __init__(self, num_token_classes: int) -> None:
        self.confusion = torch.zeros(num_token_classes, num_token_classes, dtype=torch.int64)  # (target, prediction)

    def add(self, batch: Batch, details: Any) -> None:
        """Add one batch. details: logits (B, T, classes), and targets (B, T), -1 for no label"""
        logits, targets = details
        labelled, classes = targets >= 0, len(self.confusion)
        pairs = targets[labelled] * classes + logits.argmax(dim=-1)[labelled]
        self.confusion += pairs.bincount(minlength=classes**2).view(classes, classes).cpu()

    def result(self) -> dict[str, float]:
        """Return the metrics, each between 0 and 1."""
        hits, total = self.confusion.diagonal().double(), max(int(self.confusion.sum()), 1)
        targets, predictions = self.confusion.sum(dim=1).double(), self.confusion.sum(dim=0).double()
        precision, recall = hits / predictions.clamp(min=1), hits / targets.clamp(min=1)
        f1 = 2 * hits / (predictions + targets).clamp(min=1)
        majority = targets.argmax()  # the baseline has F1 > 0 for this class only
        metrics = {
            "val/accuracy": hits.sum().item() / total,
            "val/precision": precision.mean().item(),
            "val/recall": recall.mean().item(),
            "val/f1": f1.mean().item(),
            "val/majority_accuracy": targets[majority].item() / total,
            "val/majority_f1": (2 * targets[majority] / (total + targets[majority])).item() / len(targets),
        }
        for number in range(len(targets)):
            metrics[f"val/precision_class_{number}"] = precision[number].item()
            metrics[f"val/recall_class_{number}"] = recall[number].item()
            metrics[f"val/f1_class_{number}"] = f1[number].item()
        return metrics
