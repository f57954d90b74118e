"""Small data sets in nanoGPT's format."""

from pathlib import Path

import numpy as np
import pytest

from benchmark.data_sets import write_data_set
from data.meta import read_meta

TEXTS = {"vocab_size": 2, "itos": {0: "a", 1: "b"}, "stoi": {"a": 0, "b": 1}}


@pytest.mark.parametrize(("vocabulary", "meta"), [(["a", "b"], TEXTS), (65, {"vocab_size": 65}), (None, None)])
def test_a_data_set_holds_tokens_and_vocabulary(tmp_path: Path, vocabulary: list[str] | int | None, meta) -> None:
    write_data_set(tmp_path / "tiny", {"train": np.array([1, 0, 1]), "val": np.array([0])}, vocabulary)

    assert np.fromfile(tmp_path / "tiny" / "train.bin", dtype=np.uint16).tolist() == [1, 0, 1]
    assert np.fromfile(tmp_path / "tiny" / "val.bin", dtype=np.uint16).tolist() == [0]
    path = tmp_path / "tiny" / "meta.pkl"
    assert (read_meta(path) if path.exists() else None) == meta
