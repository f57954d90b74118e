"""A text file as a data set: prepared by character, once, in a folder that has its name."""

import hashlib
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from core.errors import ConfigError, DataError
from data.corpus import read_text, write_text
from data.meta import read_meta
from data.tokenizers import CharTokenizer

SHA256 = "text_sha256"  # in meta.pkl: of the text that the data set was made of


class _Characters(CharTokenizer):
    """The characters of a text, with its checksum in meta.pkl."""

    sha256 = ""

    def meta(self) -> dict[str, Any]:
        return {**super().meta(), SHA256: self.sha256}


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
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    meta = read_meta(folder / "meta.pkl") if (folder / "meta.pkl").exists() else {}
    if folder.exists() and any(folder.iterdir()) and SHA256 not in meta:
        raise ConfigError(
            f"{folder} holds a data set that was not made of {text}: train on it with --dataset={folder.name}, or "
            "rename the text"
        )
    if meta.get(SHA256) == sha256:
        print(f"data: {folder}, made of {text}", file=sys.stderr)
        return
    if meta:
        print(f"data: {text} has changed since {folder} was made of it", file=sys.stderr)
    tokenizer = _Characters.from_text(content)
    tokenizer.sha256 = sha256
    with redirect_stdout(sys.stderr):
        write_text(folder, content, tokenizer)
    size = f"{len(content):,} characters, {tokenizer.vocab_size} different ones"
    print(f"data: {folder}, made of {text}: {size}", file=sys.stderr)
