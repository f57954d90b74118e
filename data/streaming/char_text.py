"""CharText: a data set by character, with special tokens after the characters."""

from pathlib import Path
from typing import Any

import numpy as np

from core.errors import ConfigError, DataError
from data.corpus import tiny_shakespeare, write_text
from data.meta import read_meta
from data.meta_contents import find_tables
from data.token_file import TokenFile
from data.tokenizers import CharTokenizer
from data.windows import Windows

OWN = "text"  # sub-folder for the token files, since the meta.pkl of the data set's folder describes the queue


class CharText:
    """The token files of a folder and their vocabulary: the characters, then [MASK], [PAD] and [CLS].

    cls_token_id: id of [CLS], above that of [MASK]; None: the one after [PAD]

    The attributes `mask_id`, `pad_id`, `cls_id` and `newline_id` (None if the text has no newline) are token ids,
    `base_size` is the number of characters, and `vocab_size` the number of all ids.

    Raises DataError when meta.pkl is missing, damaged, or not by character; ConfigError for a wrong cls_token_id.
    """

    def __init__(self, folder: str | Path, cls_token_id: int | None = None) -> None:
        self.folder = Path(folder)
        path = self.folder / "meta.pkl"
        tables = find_tables(read_meta(path))
        if tables is None:
            raise DataError(f"{path} has no characters (stoi): masked training needs a data set by character")
        known = tables.stoi.items()
        self.characters = {c: i for c, i in known if isinstance(c, str) and len(c) == 1}  # without [MASK] etc.
        self.base_size = len(self.characters)
        if sorted(self.characters.values()) != list(range(self.base_size)):
            raise DataError(
                f"{path}: the characters' ids are not 0 to {self.base_size - 1}: prepare the data set again"
            )
        self.mask_id, self.pad_id, self.cls_id = (self.base_size + i for i in range(3))
        if cls_token_id is not None and cls_token_id != self.cls_id:
            if cls_token_id <= self.mask_id:
                raise ConfigError(
                    f"cls_token_id={cls_token_id} is the id of a character or of [MASK] ({self.mask_id}): "
                    "remove the option, or set it to a larger id"
                )
            if cls_token_id == self.pad_id:
                self.pad_id = self.cls_id
            self.cls_id = cls_token_id
        self.vocab_size = max(self.pad_id, self.cls_id) + 1
        self.newline_id = self.characters.get("\n")

    @classmethod
    def prepared(cls, folder: str | Path, cls_token_id: int | None = None) -> "CharText":
        """Return the text of a data set, prepared from input.txt (downloaded if missing) if it has no train.bin."""
        folder = Path(folder)
        if (folder / "train.bin").exists():
            return cls(folder, cls_token_id)
        if not (folder / OWN / "train.bin").exists():
            text = tiny_shakespeare(folder)
            write_text(folder / OWN, text, CharTokenizer.from_text(text))
        return cls(folder / OWN, cls_token_id)

    def windows(self, split: str, length: int, line_aligned: bool) -> Windows:
        """Return the Windows of a split: rows of `length` tokens from anywhere, or of complete lines and [PAD]."""
        if not line_aligned:
            return Windows(self._file(split), length)
        if self.newline_id is None:
            raise ConfigError("the text has no line breaks: set enable_line_aligned_sequences=False")
        return Windows(
            self._file(split), length, start="line", newline_ids=(self.newline_id,), pad_token_id=self.pad_id
        )

    def lines(self, split: str) -> list[list[int]]:
        """Return the lines of a split that are not empty, as token ids, each with its newline."""
        if self.newline_id is None:
            raise ConfigError("the text has no line breaks: a stage of type 'line' cannot be used")
        ids = self._file(split).map().astype(np.int64)
        ends = np.flatnonzero(ids == self.newline_id) + 1
        lines = [part.tolist() for part in np.split(ids, ends)]
        return [line for line in lines if len(line) > 1]

    def _file(self, split: str) -> TokenFile:
        """Return the token file of a split, whose ids are characters and no special tokens."""
        file = TokenFile(self.folder / f"{split}.bin")
        file.check_vocab(self.base_size)
        return file

    def largest_id(self, line_aligned: bool) -> int:
        """Return the largest id in masked rows: [PAD] if they are line-aligned, else [MASK]."""
        return self.pad_id if line_aligned else self.mask_id

    def meta(self) -> dict[str, Any]:
        """Return the entries of meta.pkl that describe the vocabulary."""
        stoi = {**self.characters, "[MASK]": self.mask_id, "[PAD]": self.pad_id, "[CLS]": self.cls_id}
        return {
            "vocab_size": self.vocab_size,
            "stoi": stoi,
            "itos": {number: token for token, number in stoi.items()},
            "mask_token_id": self.mask_id,
            "pad_token_id": self.pad_id,
            "cls_token_id": self.cls_id,
        }
