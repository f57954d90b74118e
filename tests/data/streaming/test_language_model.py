"""data/streaming/language_model.py: crops of the text, targets shifted by one position."""

import numpy as np
import pytest
import torch

from core.errors import DataError
from data.meta import read_meta, write_meta
from data.streaming.char_text import CharText
from data.streaming.language_model import LanguageModelProvider


@pytest.mark.parametrize("target_size", [None, 8, 3, 12])
def test_targets_are_what_follows_in_the_text(text: CharText, target_size: int | None) -> None:
    provider = LanguageModelProvider(text.folder, 4, 8, target_size)
    ids = np.fromfile(text.folder / "val.bin", dtype=np.uint16).tolist()
    length = target_size or 8

    batches = provider.batches("val", 5, torch.Generator().manual_seed(0))

    assert len(batches) == 5
    places = [place for place in range(len(ids) - 12)]
    for batch in batches:
        assert batch.tensors["input"].shape == (4, 8) and batch.tensors["target"].shape == (4, length)
        assert batch.metadata == {"model_mode": "language_model"}
        for x, y in zip(batch.tensors["input"].tolist(), batch.tensors["target"].tolist(), strict=True):
            assert any(ids[p : p + 8] == x and ids[p + 1 : p + 1 + length] == y for p in places)


def test_meta_keeps_the_vocabulary(text: CharText) -> None:
    meta = LanguageModelProvider(text.folder, 4, 8).meta

    assert meta["training_type"] == "LM"
    assert meta["vocab_size"] == text.base_size == len(meta["stoi"]) == len(meta["itos"])
    assert (meta["batch_size"], meta["block_size"], meta["target_size"]) == (4, 8, 8)


def test_a_vocabulary_is_needed(text: CharText) -> None:
    write_meta(text.folder / "meta.pkl", {"vocab_size": 5})
    with pytest.raises(DataError, match="no vocabulary"):
        LanguageModelProvider(text.folder, 4, 8)


def test_the_type_of_ids_stays_in_meta(text: CharText) -> None:
    """A queue in the folder of a text replaces its meta.pkl."""
    write_meta(text.folder / "meta.pkl", {**read_meta(text.folder / "meta.pkl"), "dtype": "uint16"})

    assert LanguageModelProvider(text.folder, 4, 8).meta["dtype"] == "uint16"


def test_an_id_outside_the_vocabulary_is_refused(text: CharText) -> None:
    np.full(400, text.base_size, np.uint16).tofile(text.folder / "val.bin")

    with pytest.raises(DataError, match=rf"val\.bin holds token id {text.base_size}, at position 0, "):
        LanguageModelProvider(text.folder, 4, 8)
