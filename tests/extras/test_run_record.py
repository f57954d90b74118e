"""What a run records at its start: options that train again, and a line about the run."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import train
from config.options import Options
from configurator import configure
from core.checkpoint.run_folder import CONFIG_MARK
from extras.run_record import RunRecord
from tests.core.tiny_run import tiny_trainer
from tools.run_hash import run_hash


def records(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def steps(folder: str) -> list[tuple[int, float]]:
    return [(record["iter"], record["loss"]) for record in records(folder) if record["event"] == "step"]


def test_the_options_of_a_run_train_again_to_the_same_bits(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, "--out_dir=out x"])
    losses, hashed = steps("out x"), run_hash("out x")
    text = Path("out x/config.yaml").read_text()
    assert text.startswith(f"{CONFIG_MARK}; a run with these options: python train.py 'out x/config.yaml'\n")
    assert configure(Options, ["out x/config.yaml"]) == configure(Options, [*tiny_argv, "--out_dir=out x"])

    train.main(["out x/config.yaml"])

    assert (steps("out x"), run_hash("out x")) == (losses, hashed)
    assert Path("out x/previous-1/config.yaml").read_text() == text == Path("out x/config.yaml").read_text()


def test_metrics_begin_with_the_run_and_have_a_line_of_each_resume(run_dir: Path, tiny_argv: list[str]) -> None:
    for more in (["--max_iters=3"], ["--init_from=resume"], ["--init_from=resume"]):  # the last has nothing to do
        train.main([*tiny_argv, "--out_dir=out", *more])

    logged = records("out")
    first, second = (record for record in logged if record["event"] == "run")
    assert logged[0] is first
    assert first["run"] == second["run"] == torch.load("out/ckpt.pt", weights_only=True)["run"]
    assert (first["options"]["max_iters"], second["options"]["max_iters"]) == (3, 6)
    assert second["options"] == {**configure(Options, ["out/config.yaml"]).model_dump(), "init_from": "resume"}
    assert configure(Options, ["out/config.yaml"]).init_from == "scratch"  # the file begins the run anew
    assert {"coregpt", "git", "python", "torch", "device", "world_size"} <= set(first["provenance"])
    assert first["started"].endswith("+00:00")
    numbers = [record["iter"] for record in logged if record["event"] == "step"]
    assert numbers == list(range(7)) and logged.index(second) == 2 + 4 + 2  # evaluations and a save before it
    tokens = 4 * 2 * 16
    assert [record["tokens"] for record in logged if record["event"] == "step"] == [(n + 1) * tokens for n in numbers]


def test_an_evaluation_records_nothing(run_dir: Path, tiny_argv: list[str]) -> None:
    train.main([*tiny_argv, "--max_iters=0", "--out_dir=out"])
    before = Path("out/config.yaml").read_bytes(), Path("out/metrics.jsonl").read_bytes()

    train.main([*tiny_argv, "--init_from=resume", "--eval_only=True", "--out_dir=out"])

    assert (Path("out/config.yaml").read_bytes(), Path("out/metrics.jsonl").read_bytes()) == before


def recorded(trainer: Any, options: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return the events that a record of these options logs, and the paths that it writes."""
    events: list[Any] = []
    saved: list[Any] = []
    trainer.logger.log_event = events.append
    RunRecord(options, Path("x.yaml"), lambda path, heading: saved.append((path, heading))).on_train_begin(trainer)
    return events, saved


def test_values_that_json_cannot_hold_are_logged_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (event,), ((path, heading),) = recorded(tiny_trainer(tmp_path), {"kinds": {1}, "seed": 1})

    assert event["options"] == {"kinds": "{1}", "seed": 1}
    assert (path, heading) == (Path("x.yaml"), f"{CONFIG_MARK}; a run with these options: python train.py x.yaml")


def test_only_rank_0_records(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    trainer.runtime = SimpleNamespace(is_master=False)

    assert recorded(trainer, {}) == ([], [])
