"""Loss curves, read from metrics.jsonl and drawn into a picture."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigError, DataError
from tools.curve import main, read_curves

RECORDS = [
    {"event": "eval", "iter": 0, "train/loss": 4.0, "val/loss": 4.1},
    {"event": "step", "iter": 0, "loss": 4.05},
    {"event": "step", "iter": 1, "loss": None},
    {"event": "checkpoint", "text": "saving"},
    {"event": "step", "iter": 2, "loss": 3.0},
    {"event": "eval", "iter": 2, "train/loss": 3.0, "val/loss": 3.1},
    {"event": "eval", "iter": 2, "train/loss": 2.9, "val/loss": 3.0},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return tmp_path


def test_curves_skip_non_finite_losses_and_keep_the_later_of_two_records(run: Path) -> None:
    assert read_curves(run) == {
        "step": ([0, 2], [4.05, 3.0]),
        "train": ([0, 2], [4.0, 2.9]),
        "val": ([0, 2], [4.1, 3.0]),
    }


def test_records_without_a_number_are_skipped(run: Path) -> None:
    expected = read_curves(run)
    records: list[Any] = [{}, {"iter": 5}, {"loss": 1.0}, {"iter": [5], "loss": 1.0}, {"iter": 5, "loss": [1.0]}]
    records += [{"iter": "5", "loss": 1.0}, {"iter": 5, "loss": math.nan}, {"iter": 10**400, "loss": 1.0}]
    lines = [json.dumps({"event": "step", **record}) for record in records] + ['{"event": [1]}', "\ufeff", '{"event"']
    with open(run / "metrics.jsonl", "a") as file:
        file.write("\n".join(lines))

    assert read_curves(run) == expected


@pytest.mark.parametrize("content", ["", "nonsense\n", '{"event": "step", "iter": 1}\n'])
def test_metrics_without_losses_are_reported(content: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(content)

    with pytest.raises(DataError, match="has no losses: give the out_dir of a run that has logged some"):
        read_curves(tmp_path)


@pytest.mark.parametrize("name", ["none/curves.png", "curves.foo"])
def test_a_picture_that_cannot_be_written_is_reported(name: str, run: Path) -> None:
    pytest.importorskip("matplotlib")

    with pytest.raises(ConfigError, match=rf"^--file={run / name} cannot be written \(.*\): choose another place$"):
        main([str(run), "--file", str(run / name)])


def test_the_picture_is_a_png_of_some_size(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    main([str(run), "--file", str(run / "curves.png")])
    picture = (run / "curves.png").read_bytes()

    assert picture.startswith(b"\x89PNG") and len(picture) > 5_000
    assert capsys.readouterr().out == f"wrote {run / 'curves.png'}\n"


def test_the_program_ends_with_a_message_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.curve", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])

    assert done.returncode == 2 and done.stderr.startswith("error: no metrics at")
