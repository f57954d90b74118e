"""data/streaming/dual_mode.py: two kinds of batches, drawn by weight, with several of a kind in a row."""

from typing import Any

import pytest
import torch

from core.errors import ConfigError
from data.streaming.batch_file import StoredBatch
from data.streaming.dual_mode import DualModeProvider
from tests.data.streaming.conftest import Noise


class Named(Noise):
    """Noise that says which kind it is."""

    def __init__(self, mode: str, vocab_size: int = 9) -> None:
        super().__init__()
        self.mode = mode
        self.meta = {**self.meta, "vocab_size": vocab_size, mode: True}

    def batches(self, split: str, count: int, generator: torch.Generator) -> list[StoredBatch]:
        made = super().batches(split, count, generator)
        return [StoredBatch(batch.tensors, {"model_mode": self.mode}) for batch in made]


def modes(**options: Any) -> list[str]:
    both = {mode: Named(mode) for mode in ("language_model", "sequence_scorer")}
    made = DualModeProvider(both, **options).batches("train", 400, torch.Generator().manual_seed(0))
    assert len({str(batch.tensors["input"]) for batch in made}) == 400
    return [batch.metadata["model_mode"] for batch in made]


def test_both_kinds_come_by_their_weights() -> None:
    assert abs(modes().count("language_model") - 200) < 3 * 10
    weighted = modes(mode_distribution={"language_model": 3, "sequence_scorer": 1})
    assert abs(weighted.count("language_model") - 300) < 3 * 9
    assert set(modes(mode_distribution={"language_model": 1})) == {"language_model"}


def test_batches_of_one_kind_stay_together() -> None:
    found = modes(alternation_frequency=5)

    assert all(len(set(found[start : start + 5])) == 1 for start in range(0, 400, 5))
    assert len(set(found)) == 2


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"both": 1.0}, "names both"),
        ({"language_model": 0.0}, "not all of them 0"),
        ({"language_model": -1.0}, "0 or more"),
    ],
)
def test_wrong_weights_are_refused(weights: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        modes(mode_distribution=weights)


def test_both_kinds_must_have_one_vocabulary() -> None:
    with pytest.raises(ConfigError, match="differ in vocab_size"):
        DualModeProvider({"a": Named("a"), "b": Named("b", vocab_size=10)})


def test_meta_has_what_either_kind_needs() -> None:
    meta = DualModeProvider({"a": Named("a"), "b": Named("b")}).meta

    assert meta["training_type"] == "DUAL_MODE" and meta["a"] and meta["b"]
