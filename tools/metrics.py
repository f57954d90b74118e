"""Reads the metrics that a run has logged."""

import json
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.files import require_file

LARGEST = 1e300  # nan is not below it


def read_records(folder: Path, size: int | None = None) -> list[dict[str, Any]]:
    """Return the records of a run's metrics.jsonl in the order they were written.

    size: read only so many bytes of the file; by default all

    An incomplete line, as a killed run may write, is skipped. Raises DataError if there is no such file, or if it
    does not hold JSON lines.
    """
    path = folder / "metrics.jsonl"
    try:
        require_file(path)
        with open(path, "rb") as file:
            lines = file.read(-1 if size is None else size).splitlines()
        return [json.loads(line) for line in lines if line.endswith(b"}")]
    except OSError as error:
        raise DataError(
            f"no metrics at {path} ({error.strerror}): give the out_dir of a run that logged metrics"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a file of JSON lines ({error})") from None


def is_number(value: Any) -> bool:
    """Return whether a value of a record can be drawn."""
    return isinstance(value, int | float) and abs(value) < LARGEST
