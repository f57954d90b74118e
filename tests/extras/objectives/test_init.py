"""The objectives that the package exports."""

import pytest
import torch

import extras.objectives
from core.objective import LanguageModeling, Objective

IDS = torch.ones(2, 3, dtype=torch.long)


@pytest.mark.parametrize("name", ["SequenceScoring", "TokenClassification", "Unmasking"])
def test_exported_classes_are_objectives(name: str) -> None:
    assert name in extras.objectives.__all__
    assert issubclass(getattr(extras.objectives, name), Objective)


@pytest.mark.parametrize(
    ("objective", "keys"),
    [
        (extras.objectives.Unmasking(), ["input", "target"]),
        (extras.objectives.TokenClassification(2), ["input", "target"]),
        (extras.objectives.SequenceScoring(0, None), ["input", "target"]),
        (extras.objectives.SequenceScoring(0, filler=object()), ["input", "target", "seed"]),  # type: ignore[arg-type]
    ],
)
def test_an_objective_takes_a_batch_with_all_the_parts_that_it_reads(objective: Objective, keys: list[str]) -> None:
    whole = dict.fromkeys(keys, IDS)

    assert objective.takes(whole) and not objective.takes((IDS, IDS))
    assert not any(objective.takes({other: IDS for other in keys if other != key}) for key in keys)


def test_language_modelling_takes_pairs() -> None:
    objective = LanguageModeling()

    assert objective.takes((IDS, IDS)) and objective.takes([IDS, IDS])
    assert not objective.takes({"input": IDS, "target": IDS}) and not objective.takes((IDS,))
