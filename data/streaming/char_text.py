"""The text that batches are made of: the characters of a data set, and the special tokens that follow them."""

from pathlib import Path
from typing import Any

import numpy as np

from core.errors import ConfigError, DataError
from data.corpus import tiny_shakespeare, write_text
from data.meta import read_meta
from data.tokenizers import CharTokenizer
from data.windows import Windows

OWN = "text"  # sub-folder for the tokens, where the data set's folder has none: its meta.pkl tells of the queue


class CharText:
    """train.bin and val.bin of a folder, and its vocabulary: the characters, then [MASK], [PAD] and [CLS].

    cls_token_id: where [CLS] stands, if not right after [PAD]; beyond the characters and [MASK]

    The ids: `mask_id`, `pad_id`, `cls_id`, `newline_id` (None where the text has one line only). `base_size` is the
    number of characters, `vocab_size` that of all ids.
    """

    def __init__(self, folder: str | Path, cls_token_id: int | None = None) -> None:
        self.folder = Path(folder)
        path = self.folder / "meta.pkl"
        stoi = read_meta(path).get("stoi")
        if not isinstance(stoi, dict):
            raise DataError(f"{path} has no characters (stoi): masked training needs a data set by character")
        self.characters = {c: i for c, i in stoi.items() if len(c) == 1}  # [MASK] and the like may be there already
        self.base_size = len(self.characters)
        if sorted(self.characters.values()) != list(range(self.base_size)):
            raise DataError(
                f"{path}: the characters' ids do not count from 0 to {self.base_size - 1}: prepare it again"
            )
        self.mask_id, self.pad_id, self.cls_id = (self.base_size + i for i in range(3))
        if cls_token_id is not None and cls_token_id != self.cls_id:
            if cls_token_id <= self.mask_id:
                raise ConfigError(
                    f"cls_token_id={cls_token_id} is a character's id or that of [MASK], which is {self.mask_id}: "
                    "leave it out, or give a larger one"
                )
            if cls_token_id == self.pad_id:
                self.pad_id = self.cls_id
            self.cls_id = cls_token_id
        self.vocab_size = max(self.pad_id, self.cls_id) + 1
        self.newline_id = self.characters.get("\n")

    @classmethod
    def prepared(cls, folder: str | Path, cls_token_id: int | None = None) -> "CharText":
        """Return the text of a data set, made first from its input.txt, which is downloaded if there is none."""
        folder = Path(folder)
        if (folder / "train.bin").exists():
            return cls(folder, cls_token_id)
        if not (folder / OWN / "train.bin").exists():
            text = tiny_shakespeare(folder)
            write_text(folder / OWN, text, CharTokenizer.from_text(text))
        return cls(folder / OWN, cls_token_id)

    def windows(self, split: str, length: int, line_aligned: bool) -> Windows:
        """Return what draws rows of `length` tokens from a split: from anywhere, or whole lines and then [PAD]."""
        path = self.folder / f"{split}.bin"
        if not line_aligned:
            return Windows(path, length)
        if self.newline_id is None:
            raise ConfigError("the text has no line breaks: set enable_line_aligned_sequences=False")
        return Windows(path, length, start="line", newline_ids=(self.newline_id,), pad_token_id=self.pad_id)

    def lines(self, split: str) -> list[list[int]]:
        """Return the lines of a split that are not blank, as ids, each with its line break."""
        if self.newline_id is None:
            raise ConfigError("the text has no line breaks: a stage of type 'line' cannot be used")
        ids = np.fromfile(self.folder / f"{split}.bin", dtype=np.uint16).astype(np.int64)
        ends = np.flatnonzero(ids == self.newline_id) + 1
        lines = [part.tolist() for part in np.split(ids, ends)]
        return [line for line in lines if len(line) > 1]

    def largest_id(self, line_aligned: bool) -> int:
        """Return the largest id in masked rows: [PAD] in those of whole lines, else [MASK]; [CLS] is in none."""
        return self.pad_id if line_aligned else self.mask_id

    def meta(self) -> dict[str, Any]:
        """Return the vocabulary as meta.pkl keeps it."""
        stoi = {**self.characters, "[MASK]": self.mask_id, "[PAD]": self.pad_id, "[CLS]": self.cls_id}
        return {
            "vocab_size": self.vocab_size,
            "stoi": stoi,
            "itos": {number: token for token, number in stoi.items()},
            "mask_token_id": self.mask_id,
            "pad_token_id": self.pad_id,
            "cls_token_id": self.cls_id,
        }
