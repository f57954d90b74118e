"""Writes small data sets in nanoGPT's format."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.meta import write_meta

CHARS_65 = [chr(ord("0") + number) for number in range(65)]  # as many as shakespeare_char has


def write_data_set(folder: Path, splits: Mapping[str, np.ndarray], vocabulary: Sequence[str] | int | None) -> None:
    """Write the token ids of every split to <split>.bin, and the vocabulary to meta.pkl.

    vocabulary: the text of every token, or only their number; None writes no meta.pkl
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, ids in splits.items():
        ids.astype(np.uint16).tofile(folder / f"{split}.bin")
    if vocabulary is not None:
        write_meta(folder / "meta.pkl", _meta(vocabulary))


def _meta(vocabulary: Sequence[str] | int) -> dict[str, Any]:
    if isinstance(vocabulary, int):
        return {"vocab_size": vocabulary}
    itos = dict(enumerate(vocabulary))
    return {"vocab_size": len(itos), "itos": itos, "stoi": {text: number for number, text in itos.items()}}
