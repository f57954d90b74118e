"""Training objectives besides the next token: labelled tokens, unmasking, token classification, sequence scoring."""

from extras.objectives.labelled_tokens import LabelledTokens
from extras.objectives.sequence_scoring import SequenceScoring
from extras.objectives.token_classification import TokenClassification
from extras.objectives.unmasking import Unmasking

__all__ = ["LabelledTokens", "SequenceScoring", "TokenClassification", "Unmasking"]
