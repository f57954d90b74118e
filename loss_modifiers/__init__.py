"""Loss modifiers: changes to the training loss, one per file, applied in a fixed order."""

from loss_modifiers.base import LossModifier
from loss_modifiers.entropy import EntropyModifier
from loss_modifiers.entropy_penalty import EntropyPenaltyModifier
from loss_modifiers.judge import Judge
from loss_modifiers.judge_factor import JudgeFactorModifier
from loss_modifiers.judge_weight import SequenceScoringJudgeWeightModifier
from loss_modifiers.label_smoothing import LabelSmoothingModifier
from loss_modifiers.mask_ratio_weight import MaskRatioWeightModifier
from loss_modifiers.metrics_collector import MetricsCollectorModifier
from loss_modifiers.pipeline import LossModifierPipeline
from loss_modifiers.sequence_correlation import SequenceScorerCorrelationModifier
from loss_modifiers.sequence_target import sequence_scorer_target_transform
from loss_modifiers.sequence_variance import SequenceScorerVarianceModifier
from loss_modifiers.target_smoothing import TargetSmoothingModifier
from loss_modifiers.z_loss import ZLossModifier

__all__ = [
    "EntropyModifier",
    "EntropyPenaltyModifier",
    "Judge",
    "JudgeFactorModifier",
    "LabelSmoothingModifier",
    "LossModifier",
    "LossModifierPipeline",
    "MaskRatioWeightModifier",
    "MetricsCollectorModifier",
    "SequenceScorerCorrelationModifier",
    "SequenceScorerVarianceModifier",
    "SequenceScoringJudgeWeightModifier",
    "TargetSmoothingModifier",
    "ZLossModifier",
    "sequence_scorer_target_transform",
]
