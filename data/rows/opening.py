"""Data sets of rows: local files, or a name of the Hugging Face hub; as tables or as streams."""

import glob
import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.commands import install_command
from core.errors import ConfigError, DataError

PREFIX = "hf:"  # of dataset
KINDS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text", ".text": "text"}
WITHOUT_PREFIX = (".json", ".jsonl", ".parquet")  # endings that mean rows by themselves
SAMPLES, SAMPLE = 64, 65536  # parts of a file that identify it, and their bytes
VALIDATION = ("validation", "val", "valid", "dev", "eval", "test")  # names of a split for validation, in this order


class RowSplits(NamedTuple):
    """The rows of a data set: tables, or functions that open a stream.

    validation: None if the data set has no split for it
    columns:    their names
    fingerprint: what identifies the content, for manifests
    """

    training: Any
    validation: Any
    columns: list[str]
    fingerprint: str


def are_rows(dataset: str) -> bool:
    """Return whether a data set is one of rows, by its name."""
    return dataset.startswith(PREFIX) or Path(dataset).suffix.lower() in WITHOUT_PREFIX


def open_rows(
    dataset: str,
    *,
    streaming: bool = False,
    config: str | None = None,
    train_split: str = "train",
    val_split: str | None = None,
) -> RowSplits:
    """Return the rows of a data set.

    dataset: `hf:NAME` of the hub; or files, `hf:FILE` or FILE: json, jsonl, parquet, csv, text (a row for each line).
             A pattern such as `parts/*.jsonl` means several. A folder may hold `train.jsonl`, `validation.jsonl` or the
             like
    config:  name of one of the hub's configurations

    Raises DataError or ConfigError for a data set that cannot be had; the message lists the splits there are.
    """
    try:
        import datasets
    except ImportError:
        raise ConfigError(f"data sets of rows need the datasets package: {install_command('hf')}") from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    arguments = _arguments(dataset.removeprefix(PREFIX), config)

    def load(split: str) -> Any:
        if "data_files" not in arguments:
            return datasets.load_dataset(**arguments, split=split, streaming=streaming)
        files = {"train": arguments["data_files"][split]}  # by itself, as its columns may differ from another split's
        return datasets.load_dataset(arguments["path"], data_files=files, split="train", streaming=streaming)

    known = _splits(dataset, arguments)
    if train_split not in known:
        raise DataError(f"dataset={dataset} has no split {train_split}, only {', '.join(known)}: set train_split")
    if val_split is not None and val_split not in known:
        raise DataError(f"dataset={dataset} has no split {val_split}, only {', '.join(known)}: correct val_split")
    other = val_split or next((name for name in VALIDATION if name in known and name != train_split), None)
    first = _read(dataset, lambda: load(train_split))
    columns = list(_read(dataset, lambda: first.column_names or next(iter(first), {})))
    fingerprint = _fingerprint(arguments)
    if not streaming:
        return RowSplits(first, None if other is None else _read(dataset, lambda: load(other)), columns, fingerprint)
    return RowSplits(lambda: load(train_split), None if other is None else lambda: load(other), columns, fingerprint)


def _arguments(name: str, config: str | None) -> dict[str, Any]:
    """Return what `datasets.load_dataset` is called with."""
    path = Path(name).expanduser()
    files = _files(path)
    if files is None:
        return {"path": name, **({"name": config} if config else {})}
    if path.is_dir() and not files:
        raise DataError(f"dataset={name}: the folder holds no {', '.join(KINDS)} files")
    kinds = {KINDS.get(Path(file).suffix.lower()) for parts in files.values() for file in parts}
    if len(kinds) > 1 or None in kinds:
        raise DataError(f"dataset={name}: wanted files of one kind, {', '.join(KINDS)}")
    return {"path": str(kinds.pop()), "data_files": files}


def _files(path: Path) -> dict[str, list[str]] | None:
    """Return the files of each split; None for a name of the hub."""
    if path.is_file():
        return {"train": [str(path)]}
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in KINDS)
        if not found and (path / "data").is_dir():  # as in a copy of the hub's
            return _files(path / "data")
        named: dict[str, list[str]] = {}
        for file in found:
            named.setdefault(_split_of(file.stem), []).append(str(file))
        if "train" in named:
            return {split: files for split, files in named.items() if split}
        return {"train": [str(file) for file in found]} if found else {}
    if set(str(path)) & set("*?["):
        if found := sorted(Path(name) for name in glob.glob(str(path), recursive=True)):
            return {"train": [str(file) for file in found]}
        raise DataError(f"dataset={path}: no file has such a name")
    if path.suffix.lower() in KINDS:
        raise DataError(f"dataset={path}: there is no such file")
    return None


def _split_of(stem: str) -> str:
    """Return the split that a file's name begins with, as in train-00000-of-00002; empty if it names none."""
    match = re.match(rf"({'|'.join(('train', *VALIDATION))})([-_.\d]|$)", stem.lower())
    return match[1] if match else ""


def _splits(dataset: str, arguments: dict[str, Any]) -> list[str]:
    import datasets

    if "data_files" in arguments:
        return list(arguments["data_files"])
    return list(_read(dataset, lambda: datasets.get_dataset_split_names(arguments["path"], arguments.get("name"))))


def _read(dataset: str, read: Callable[[], Any]) -> Any:
    """Return what a function reads. Raises DataError in one sentence for all that the library raises."""
    try:
        return read()
    except (ConnectionError, FileNotFoundError, OSError) as error:
        raise DataError(
            f"dataset={dataset} cannot be had ({_first_line(error)}): go online once, or give a local file: "
            f"{', '.join(KINDS)}"
        ) from None
    except Exception as error:  # of many kinds
        cause = error.__cause__ or error
        raise DataError(f"dataset={dataset} cannot be read: {type(cause).__name__}: {_first_line(cause)}") from None


def _fingerprint(arguments: dict[str, Any]) -> str:
    """Return what identifies files, by samples of their content; of the hub, the name."""
    files: Sequence[str] = [file for parts in arguments.get("data_files", {}).values() for file in parts]
    if not files:
        return "/".join(str(value) for value in arguments.values())
    digest = hashlib.sha256()
    for file in files:
        size = Path(file).stat().st_size
        digest.update(f"{Path(file).name}:{size}".encode())
        with open(file, "rb") as content:
            for place in range(0, size, max(SAMPLE, size // SAMPLES)):
                content.seek(place)
                digest.update(content.read(SAMPLE))
    return digest.hexdigest()[:16]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
