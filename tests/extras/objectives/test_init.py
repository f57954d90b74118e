"""The objectives that the package exports."""

import pytest

import extras.objectives
from core.objective import Objective


@pytest.mark.parametrize("name", ["SequenceScoring", "TokenClassification", "Unmasking"])
def test_exported_classes_are_objectives(name: str) -> None:
    assert name in extras.objectives.__all__
    assert issubclass(getattr(extras.objectives, name), Objective)
