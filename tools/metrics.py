"""Reading what a run has measured."""

import json
from pathlib import Path
from typing import Any

from core.errors import DataError


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's metrics.jsonl, in the order in which they were written.

    The half line that a killed run may leave is passed over. Raises DataError where there is no such file, or no such
    lines in it.
    """
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]
    except OSError as error:
        raise DataError(f"no metrics at {path} ({error.strerror}): give the folder of a run, its out_dir") from None
    except ValueError as error:
        raise DataError(f"{path} is not a file of JSON lines ({error})") from None
