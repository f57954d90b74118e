"""The texts of a data set of Hugging Face's `datasets`, of the hub or of a local file, one row after the other."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.commands import install_command
from core.errors import ConfigError, DataError
from core.files import kind_of
from data.preparation.encoding import Piece
from data.preparation.text_pieces import PIECE

FORMATS = {"jsonl": "json", "json": "json", "parquet": "parquet", "txt": "text"}
ENDING = re.compile(rf"\.({'|'.join(FORMATS)})(\.(gz|bz2|xz|zst))?$")
LOCAL_FILES = "a .jsonl, .json, .parquet or .txt file"
ROWS = 1000  # in a piece, at most


class HuggingFaceRows:
    """The texts of one column of a data set. They are read row by row, again for each call; nothing is stored.

    name:   of a data set of the hub, or the path of a local file or folder
    config: the name of one of its configurations; None for the only one
    split:  of which the rows are
    column: that holds the text

    Rows whose text is null are skipped. Raises ConfigError if `datasets` is missing, or the data set cannot be opened
    or has no such column; DataError if it has no rows or becomes unreadable.
    """

    row_end = "\n"  # follows each row in tokenizers without an end token

    def __init__(self, name: str, config: str | None, split: str, column: str) -> None:
        self.name, self.config, self.split, self.column = name, config, split, column
        self._path = Path(name) if ENDING.search(name) or Path(name).exists() else None
        if self._path and not self._path.exists():
            raise ConfigError(f"no file at {name}: give --hf-dataset {LOCAL_FILES}, or the name of a data set")
        self._rows = self._open()
        self._check_column(next(self._read(0), None))

    def fingerprint(self) -> list[object]:
        """Return values that change with the arguments, or when a local file is written to."""
        stamp: list[object] = [self.name]
        if self._path:
            status = self._path.stat()
            stamp = [str(self._path.resolve()), status.st_size, status.st_mtime_ns]
        return [*stamp, self.config, self.split, self.column]

    def texts(self, begin: int = 0) -> Iterator[str]:
        """Yield the text of each row from number `begin` on, without the end of the row."""
        yield from (text for _, text in self._texts(begin) if text is not None)

    def pieces(self, begin: int) -> Iterator[Piece]:
        """Yield the rows from number `begin` on in pieces of about PIECE characters."""
        texts: list[str] = []
        rows = length = 0
        for _, text in self._texts(begin):
            rows += 1
            if text is not None:
                texts.append(text)
                length += len(text)
            if length >= PIECE or rows >= ROWS:
                yield Piece(rows, texts)
                texts, rows, length = [], 0, 0
        if rows:
            yield Piece(rows, texts)

    def _texts(self, begin: int) -> Iterator[tuple[int, str | None]]:
        for number, row in enumerate(self._read(begin), begin):
            text = row.get(self.column)
            if text is not None and not isinstance(text, str):
                raise self._no_text(row)
            yield number, text

    def _read(self, begin: int) -> Iterator[dict[str, Any]]:
        try:
            yield from self._rows.skip(begin) if begin else self._rows
        except (ConfigError, DataError):
            raise
        except Exception as error:  # of the package, of a file format, of the network
            raise DataError(
                f"cannot read the data set {self.name} ({_first_line(error)}): correct the file, or wait for the "
                "network, and run the same command again; it continues"
            ) from error

    def _open(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise ConfigError(f"--hf-dataset needs the package datasets ({error}): {install_command('hf')}") from error
        datasets.disable_progress_bars()
        ending = ENDING.search(self.name)
        if self._path and kind_of(self._path) not in (None, "a folder"):
            raise ConfigError(f"{self.name} is {kind_of(self._path)}: give --hf-dataset {LOCAL_FILES}")
        try:
            if self._path and ending:
                files = {"data_files": str(self._path)}
                return datasets.load_dataset(FORMATS[ending[1]], split=self.split, streaming=True, **files)
            if self._path and self._path.is_file():
                raise ConfigError(f"{self.name} has an unknown ending: give --hf-dataset {LOCAL_FILES}")
            return datasets.load_dataset(self.name, self.config, split=self.split, streaming=True)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"cannot open the data set {self.name} of Hugging Face, split {self.split} ({_first_line(error)}): "
                "correct --hf-dataset, --hf-config or --hf-split; without a network, download one of its files "
                f"elsewhere and give that, --hf-dataset FILE, {LOCAL_FILES}"
            ) from error

    def _check_column(self, row: dict[str, Any] | None) -> None:
        if row is None:
            raise DataError(f"the data set {self.name}, split {self.split}, has no rows: choose another --hf-split")
        if self.column not in row:
            raise ConfigError(
                f"--text-column is {self.column!r}, wanted a column of {self.name}: {', '.join(map(str, row))}"
            )
        if not isinstance(row[self.column], str | None):
            raise self._no_text(row)

    def _no_text(self, row: dict[str, Any]) -> ConfigError:
        kind, names = type(row[self.column]).__name__, [name for name, value in row.items() if isinstance(value, str)]
        return ConfigError(
            f"--text-column is {self.column!r}, a column of {kind} in {self.name}, wanted one of text: "
            f"{', '.join(names) or 'there is none'}"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
