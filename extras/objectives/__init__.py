"""Training objectives besides the next token: unmasking, token classification, sequence scoring."""

from extras.objectives.sequence_scoring import SequenceScoring
from extras.objectives.token_classification import TokenClassification
from extras.objectives.unmasking import Unmasking

__all__ = ["SequenceScoring", "TokenClassification", "Unmasking"]
