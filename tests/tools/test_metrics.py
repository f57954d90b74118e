"""Reading the metrics that a run has logged."""

import os
from pathlib import Path

import pytest

from core.errors import DataError
from core.logger import JsonlLogger
from tools.metrics import read_records


def test_records_are_read_without_an_incomplete_last_line(tmp_path: Path) -> None:
    logger = JsonlLogger(str(tmp_path / "metrics.jsonl"))
    for number in (1, 2):
        logger.log_event({"event": "stage", "iter": number})
    logger.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"event": "st')

    assert [(record["event"], record["iter"]) for record in read_records(tmp_path)] == [("stage", 1), ("stage", 2)]


def test_records_are_read_up_to_a_size(tmp_path: Path) -> None:
    first = '{"event": "step", "iter": 0}\n'
    (tmp_path / "metrics.jsonl").write_text(first + '{"event": "step", "iter": 1}\n')

    assert read_records(tmp_path, len(first)) == read_records(tmp_path, len(first) + 9) == read_records(tmp_path)[:1]


def test_missing_and_damaged_metrics_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no metrics at .*give the out_dir of a run"):
        read_records(tmp_path)
    for text in ("{half}", '{"a":' * 100_000 + "}", '{"a": ' + "1" * 5000 + "}"):
        (tmp_path / "metrics.jsonl").write_text(text)
        with pytest.raises(DataError, match="is not a file of JSON lines"):
            read_records(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(DataError, match=r"no metrics at .* \(it is a named pipe\)"):
        read_records(tmp_path)
