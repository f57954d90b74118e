"""A data set of the user's own, from a Python file with `get_custom_dataset`, as llama-recipes has it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from core import ConfigError, DataError
from wiring.user_file import place_in, user_module

if TYPE_CHECKING:
    from config.options import Options

FUNCTION, COLLATOR = "get_custom_dataset", "get_data_collator"
FOLDER = "datasets"  # where a file is looked for that is not at its path
WANTED = f"a Python file with {FUNCTION}(dataset_config, processor, split, split_ratio=0.8)"
VALIDATION = "test"  # the split that validates, in the files of the line that this form comes from


class CustomData(NamedTuple):
    """What a file gives: the rows of both splits, and a collator of the user's, None without one.

    collate: `collate(rows) -> batch`, with input_ids and labels
    """

    training: Sequence[Any]
    validation: Sequence[Any]
    collate: Callable[[list[Any]], Any] | None
    path: Path


def find_file(name: str) -> Path:
    """Return the path of a file, or of the one with this name in the folder `datasets`."""
    path = Path(name)
    inside = Path(FOLDER, name)
    return inside if not path.exists() and inside.exists() else path


def open_custom_data(options: Options, processor: Any) -> CustomData:
    """Return what the user's file gives. Raises ConfigError or DataError, with the line of the file, if it fails.

    processor: of transformers, as the file's functions take it
    """
    assert options.dataset_file is not None
    path = find_file(options.dataset_file)
    with user_module(path, "dataset_file", WANTED) as module:
        make = getattr(module, FUNCTION, None)
        if not callable(make):
            raise ConfigError(f"{path}: it defines no {FUNCTION}: wanted {WANTED}")
        settings = SimpleNamespace(**options.model_dump(), file=str(path))
        ratio = {"split_ratio": options.split_ratio} if _takes(make, "split_ratio") else {}
        splits = [make(settings, processor, split, **ratio) for split in ("train", options.val_split or VALIDATION)]
        collator = getattr(module, COLLATOR, None)
        collate = collator(processor) if callable(collator) else None
    for split, rows in zip(("train", options.val_split or VALIDATION), splits, strict=True):
        if not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
            raise DataError(
                f"{path}: {FUNCTION} returns a {type(rows).__name__} for {split}, wanted rows with a length and numbers"
            )
        if not len(rows):
            raise DataError(f"{path}: {FUNCTION} returns no row for {split}: look at the data")
    return CustomData(splits[0], splits[1], collate and _in_user_code(collate, path), path)


def _takes(function: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(parameter.name == name or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _in_user_code(collate: Callable[[list[Any]], Any], path: Path) -> Callable[[list[Any]], Any]:
    """Return the collator, whose errors name the line of the user's file."""

    def collated(rows: list[Any]) -> Any:
        try:
            return collate(rows)
        except Exception as error:
            raise DataError(
                f"{place_in(error, path)}: {COLLATOR}'s function fails with {type(error).__name__}: {error}"
            ) from error

    return collated
