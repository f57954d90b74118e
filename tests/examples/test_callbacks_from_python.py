"""The example of callbacks from Python, run as its docstring says."""

import json
import runpy
import sys
from pathlib import Path

import pytest


def test_the_example_trains_and_prints_the_loss(
    run_dir: Path, tiny_argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["callbacks_from_python.py", *tiny_argv, "--max_iters=3", "--eval_interval=2"])
    runpy.run_module("examples.callbacks_from_python", run_name="__main__")

    assert capsys.readouterr().out.splitlines()[-1].startswith("lowest validation loss: 2.")
    records = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    gradients = [(record["iter"], record["largest"] > 0) for record in records if record["event"] == "gradient"]
    assert gradients == [(0, False), (2, True)]
