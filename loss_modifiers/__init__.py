"""Changes to the training loss, one per file, applied in a fixed order. They import torch and nothing else of ours."""

from loss_modifiers.base import LossModifier
from loss_modifiers.pipeline import LossModifierPipeline

__all__ = ["LossModifier", "LossModifierPipeline"]
