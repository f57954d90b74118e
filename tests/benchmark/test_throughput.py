"""The speed measurements and the arithmetic of their table."""

from pathlib import Path

import pytest

from benchmark.compare_legacy import ROOT
from benchmark.throughput import Measurement, measure, table


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that runs at half speed after the first round does not change the ratio."""
    ours = [Measurement(10.0, 100.0, 50.0), Measurement(20.0, 200.0, 50.0), Measurement(20.0, 200.0, 50.0)]
    theirs = [Measurement(20.0, 100.0, 25.0), Measurement(40.0, 200.0, 25.0), Measurement(40.0, 200.0, 25.0)]
    lines = table({"ours": ours, "theirs": theirs}).splitlines()

    figures = "ours step 20.00 ms (10.00 to 20.00), evaluation 200.0 ms, memory 50.0 MB"
    assert lines[0].split() == figures.split()
    assert [line.split() for line in lines[2:]] == [
        ["ours", "/", "theirs", "step_ms", "0.5000", "[0.5000,", "0.5000]"],
        ["ours", "/", "theirs", "eval_ms", "1.0000", "[1.0000,", "1.0000]"],
        ["ours", "/", "theirs", "memory_mb", "2.0000", "[2.0000,", "2.0000]"],
    ]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("script", ["train.py", "benchmark/reference.py"])
def test_measure_returns_times_and_memory_of_a_program(script: str, run_dir: Path, tiny_argv: list[str]) -> None:
    """An evaluation of 240 batches takes longer than a step of two; time and memory of the tiny model are small."""
    arguments = [*tiny_argv, "--max_iters=15", "--log_interval=1", "--eval_interval=1000", "--eval_iters=120"]

    measured = measure(ROOT / script, arguments, 1)

    assert 0 < measured.step_ms < min(1000, measured.eval_ms)
    assert 1 < measured.memory_mb < 1000
