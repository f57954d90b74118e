"""One hash for a run: equal for equal runs in any folder, different when any number differs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoint.find import save_checkpoint
from core.checkpoint.manager import CheckpointManager
from core.errors import CheckpointError, DataError
from tools.run_hash import main, read_metrics, run_hash, value_hash

ROOT = Path(__file__).resolve().parents[2]
STEP = {"event": "step", "iter": 0, "loss": 4.05, "lr": 1e-3, "time_ms": 12.5, "mfu": -100.0}
EVAL = {"event": "eval", "iter": 0, "train/loss": 4.0, "val/loss": None, "mfu": 3.5}


def checkpoint() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(1)
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3, generator=draw)}
    rank = {"rng": {"cpu": torch.zeros(8, dtype=torch.uint8), "python": (3, (1, 2), None)}}
    return {
        "model": {"wte": torch.randn(2, 3, generator=draw), "bias": torch.zeros(3)},
        "optimizer": {"state": {0: moments}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "model_args": {"n_layer": 1},
        "iter_num": 5,
        "best_val_loss": torch.tensor(2.5),
        "config": {"out_dir": "out", "init_from": "scratch"},
        "lowest_val_loss": 2.5,
        "evaluated_at": 5,
        "scaler": {},
        "callbacks": {"Patience": {"left": 3}},
        "recovery": {"history": [], "lr_scale": 1.0, "left_out": {}},
        "ranks": [{**rank, "batch": (torch.arange(6),), "data": {"starts": [1, 2]}} for _ in range(2)],
        "run": "abc",
    }


def lines(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def make_run(folder: Path, content: dict[str, Any], metrics: bytes = lines(STEP, EVAL), later: bytes = b"") -> Path:
    """Make a run folder with a checkpoint, the metrics up to it, and later metrics."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_bytes(metrics + later)
    content = {**content, "loggers": {"JsonlLogger": {"offset": len(metrics)}}}
    notes = {"iter_num": content["iter_num"], "val_loss": 2.5, "healthy": True}
    save_checkpoint(CheckpointManager(folder), content, notes)
    return folder


# runs


def test_the_same_run_has_the_same_hash_in_any_folder(tmp_path: Path) -> None:
    first = run_hash(make_run(tmp_path / "a", checkpoint()))
    elsewhere = {**checkpoint(), "config": {"out_dir": "b", "init_from": "resume"}, "run": "def"}
    slower = STEP | {"time_ms": 99.0, "mfu": 1.0}
    event = {"event": "recovery", "history": []}
    second = run_hash(make_run(tmp_path / "b" / "c", elsewhere, lines(event, slower, EVAL, event), lines(STEP)))

    assert first == second
    assert len(first) == 64 and set(first) <= set("0123456789abcdef")


def test_a_run_that_logs_more_has_the_same_hash(tmp_path: Path) -> None:
    """Older runs have no record of the run, no tokens and no mean loss."""
    newer = {"elapsed_s": 0.5, "tokens": 64, "tokens_per_s": 99.0, "mean_loss": 4.0}
    run = {"event": "run", "run": "abc", "options": {}}
    logged = lines(run, STEP | newer, EVAL | {"elapsed_s": 0.6, "tokens": 64})

    assert run_hash(make_run(tmp_path / "new", checkpoint(), logged)) == run_hash(
        make_run(tmp_path / "o", checkpoint())
    )


def change_last_element(tensor: torch.Tensor) -> None:
    tensor.view(-1)[-1] += 1


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a weight": lambda content: change_last_element(content["model"]["wte"]),
    "a weight's name": lambda content: content["model"].update(wpe=content["model"].pop("wte")),
    "a weight's type": lambda content: content["model"].update(bias=torch.zeros(3, dtype=torch.int32)),
    "a weight's shape": lambda content: content["model"].update(bias=torch.zeros(3, 1)),
    "a moment": lambda content: change_last_element(content["optimizer"]["state"][0]["exp_avg"]),
    "a learning rate": lambda content: content["optimizer"]["param_groups"][0].update(lr=2e-3),
    "the shape of the model": lambda content: content["model_args"].update(n_layer=2),
    "iter_num": lambda content: content.update(iter_num=6),
    "best_val_loss": lambda content: content.update(best_val_loss=torch.tensor(2.25)),
    "lowest_val_loss": lambda content: content.update(lowest_val_loss=2.25),
    "evaluated_at": lambda content: content.update(evaluated_at=None),
    "the scaler": lambda content: content.update(scaler={"scale": 1.0}),
    "a callback": lambda content: content["callbacks"]["Patience"].update(left=2),
    "a recovery": lambda content: content["recovery"]["history"].append({"iter": 3}),
    "a random state": lambda content: change_last_element(content["ranks"][1]["rng"]["cpu"]),
    "a batch": lambda content: change_last_element(content["ranks"][0]["batch"][0]),
    "a position in the data": lambda content: content["ranks"][1]["data"]["starts"].append(3),
    "a rank": lambda content: content["ranks"].pop(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_any_part_changes_the_hash(tmp_path: Path, change: str) -> None:
    content = checkpoint()
    content["ranks"] = [
        {**rank, "rng": {**rank["rng"], "cpu": rank["rng"]["cpu"].clone()}} for rank in content["ranks"]
    ]
    CHANGES[change](content)

    assert run_hash(make_run(tmp_path / "changed", content)) != run_hash(make_run(tmp_path / "plain", checkpoint()))


@pytest.mark.parametrize(
    "metrics",
    [
        lines(STEP | {"loss": 4.06}, EVAL),
        lines(STEP, EVAL | {"val/loss": 1.0}),
        lines(STEP),
        lines(STEP, STEP, EVAL),
        lines(EVAL, STEP),
        b"",
    ],
)
def test_other_metrics_change_the_hash(tmp_path: Path, metrics: bytes) -> None:
    assert run_hash(make_run(tmp_path / "other", checkpoint(), metrics)) != run_hash(
        make_run(tmp_path / "plain", checkpoint())
    )


def test_the_newest_good_checkpoint_is_hashed(tmp_path: Path) -> None:
    first = run_hash(make_run(tmp_path / "a", checkpoint()))
    newer = {**checkpoint(), "iter_num": 7, "loggers": {"JsonlLogger": {"offset": len(lines(STEP, EVAL))}}}
    notes = {"iter_num": 7, "val_loss": 2.5, "healthy": True}
    path = save_checkpoint(CheckpointManager(tmp_path / "a"), newer, notes)
    assert path is not None and run_hash(tmp_path / "a") != first

    path.write_bytes(path.read_bytes()[:-100])
    assert run_hash(tmp_path / "a") == first


def test_a_nanogpt_checkpoint_has_a_hash(tmp_path: Path) -> None:
    content = {key: checkpoint()[key] for key in ("model", "optimizer", "model_args", "iter_num", "best_val_loss")}
    for name, config in (("a", {"seed": 1}), ("b", {"seed": 2})):
        (tmp_path / name).mkdir()
        torch.save({**content, "config": config}, tmp_path / name / "ckpt.pt")

    assert run_hash(tmp_path / "a") == run_hash(tmp_path / "b")


# values


VALUES: list[Any] = [
    1, 1.0, "1", True, None, b"1", 0, -0.0, 0.0, False, "", "None", [], {}, [1], [[1]], [1, 1], {1: 1}, {"1": 1},
    {1: None}, [None], float("nan"), float("inf"), {"a": 1, "b": 2}, {"a": 2, "b": 1}, ["ab", "c"], ["a", "bc"],
    [b"abytesb", b"c"], [b"a", b"bbytesc"],
    torch.tensor(1), torch.tensor([1]), torch.tensor(1.0), torch.tensor(True), torch.tensor(1.0, dtype=torch.float64),
    torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]), torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(0),
    torch.tensor(1.0).bfloat16(), torch.tensor(1.0).half(), torch.float32, "torch.float32", {1, 2}, {3},
]  # fmt: skip


def test_different_values_have_different_hashes() -> None:
    assert len({value_hash(value) for value in VALUES}) == len(VALUES)


def test_equal_values_have_equal_hashes() -> None:
    transposed = torch.arange(6.0).view(3, 2).t()

    assert value_hash({"b": [1, (2,)], "a": float("nan")}) == value_hash({"a": float("nan"), "b": (1, [2])})
    assert value_hash({1: "x", "1": "y"}) == value_hash({"1": "y", 1: "x"})
    assert value_hash(transposed) == value_hash(transposed.contiguous()) == value_hash(torch.nn.Parameter(transposed))
    assert value_hash({"b", "a"}) == value_hash({"a", "b"})


# the metrics


def test_metrics_are_read_up_to_a_size_and_without_times(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    complete = lines(STEP, {"event": "checkpoint", "text": "saving"}, EVAL)
    path.write_bytes(complete + b'{"event": "st')

    step = {"event": "step", "iter": 0, "loss": 4.05, "lr": 1e-3}
    assert read_metrics(tmp_path, len(complete)) == [step, {key: value for key, value in EVAL.items() if key != "mfu"}]
    assert read_metrics(tmp_path, len(lines(STEP))) == [step]
    assert read_metrics(tmp_path / "absent", 0) == []


def test_metrics_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"{half}\n")

    with pytest.raises(DataError, match=r"metrics\.jsonl is not a file of JSON lines"):
        read_metrics(tmp_path, 7)
    with pytest.raises(DataError, match=r"no metrics at .*absent.* \(No such file"):
        read_metrics(tmp_path / "absent", 7)


# the program


def test_the_program_prints_only_the_hash(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "a", checkpoint())
    capfd.readouterr()
    main([str(folder)])

    assert capfd.readouterr() == (run_hash(folder) + "\n", "")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at .*absent"):
        run_hash(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_the_program_ends_with_a_message_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.run_hash", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: no checkpoint at")
