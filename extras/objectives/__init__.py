"""What a model can learn beside the next token: to fill gaps, to label tokens, to score sequences."""

from extras.objectives.sequence_scoring import SequenceScoring
from extras.objectives.token_classification import TokenClassification
from extras.objectives.unmasking import Unmasking

__all__ = ["SequenceScoring", "TokenClassification", "Unmasking"]
