"""A text file as a data set: prepared by character, once, in a folder that has its name."""

import hashlib
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from core.errors import ConfigError, DataError
from core.losses import SPLITS
from data.corpus import read_text, write_text
from data.meta import read_meta
from data.tokenizers import CharTokenizer

SHA256, PLACE = "text_sha256", "text_place"  # in meta.pkl: hashes of the text that the data set is made of, of its path


class _Characters(CharTokenizer):
    """The characters of a text, with notes on the text in meta.pkl."""

    notes: Mapping[str, str] = {}

    def meta(self) -> dict[str, Any]:
        return {**super().meta(), **self.notes}


def data_set_name(text: Path) -> str:
    """Return the name of the data set that is made of a text file: `notes` for my/notes.txt."""
    return re.sub(r"[^\w.-]+", "_", text.stem).strip(".") or "text"


def prepare(text: Path, folder: Path) -> None:
    """Make the data set of a text in `folder`, unless it is there already. A changed text is prepared again.

    Raises DataError if the file holds no text, and ConfigError if `folder` holds another data set.
    """
    content = read_text(text)
    if not content:
        raise DataError(f"no text in {text}: give a file that is not empty")
    notes = {SHA256: _hash(content), PLACE: _hash(str(text.resolve()))}
    meta = read_meta(folder / "meta.pkl") if (folder / "meta.pkl").exists() else {}
    is_same = meta.get(SHA256) == notes[SHA256]
    if folder.exists() and any(folder.iterdir()) and not (is_same or meta.get(PLACE) == notes[PLACE]):
        raise ConfigError(
            f"{folder} holds a data set that was not made of {text}: train on it with --dataset={folder.name}, or "
            "rename the text"
        )
    if is_same and all((folder / f"{split}.bin").exists() for split in SPLITS):  # else it was killed while writing
        print(f"data: {folder}, made of {text}", file=sys.stderr)
        return
    if meta and not is_same:
        print(f"data: {text} has changed since {folder} was made of it", file=sys.stderr)
    tokenizer = _Characters.from_text(content)
    tokenizer.notes = notes
    with redirect_stdout(sys.stderr):
        write_text(folder, content, tokenizer)
    size = f"{len(content):,} characters, {tokenizer.vocab_size} different ones"
    print(f"data: {folder}, made of {text}: {size}", file=sys.stderr)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
