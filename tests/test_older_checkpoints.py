"""Checkpoints of version 0.1 (commit a45e8e9) are restored bit for bit, and training continues as in that version.

Each folder in tests/fixtures has a checkpoint of iteration 6 on the tiny data set, its manifest, and in expected.json
the options of its run with the batches and losses of the next three iterations, as that version computed them.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import core
import train
from config.options import Options
from configurator import configure
from core.batch import fingerprint
from core.checkpoint.format import CHECKPOINT, MANIFEST, POSITION
from core.checkpoint.manifest import read
from tests.comparing import assert_same
from wiring import GivenParts

FIXTURES = sorted((Path(__file__).parent / "fixtures").iterdir())


class Counter(core.Callback):
    """The callback of the saved runs, which saves all losses; here it also records the batch of each iteration."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.batches: list[str] = []

    def on_step_begin(self, trainer: core.Trainer) -> None:
        self.batches.append(fingerprint(trainer.step.batch))

    def on_step_end(self, trainer: core.Trainer, result: core.StepResult) -> None:
        self.seen.append(float(result.loss))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = list(state["seen"])


@pytest.fixture(params=FIXTURES, ids=lambda path: path.name)
def saved(request: pytest.FixtureRequest, run_dir: Path) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """Copy a fixture to out/; return the command line that resumes it, the checkpoint, and the expected values."""
    shutil.copytree(request.param, "out")
    expected = json.loads(Path("out/expected.json").read_text())
    argv = [f"--{name}={value}" for name, value in expected["options"].items()]
    return [*argv, "--init_from=resume"], core.load_checkpoint("out/ckpt-000002.pt"), expected


def test_the_state_is_restored_bit_for_bit(saved: tuple[list[str], dict[str, Any], dict[str, Any]]) -> None:
    argv, checkpoint, expected = saved
    counter = Counter()
    with core.Runtime(device="cpu") as run:
        trainer = train.build(configure(Options, argv), run, core.Preemption(), GivenParts(callbacks=[counter]))
        position = trainer.checkpointer.saved_position()

        assert fingerprint(trainer.step.batch) == expected["next_batch"]
        assert_same(dict(trainer.raw_model.state_dict()), dict(checkpoint["model"]))
        assert_same(trainer.step.optimizer.state_dict()["state"], checkpoint["optimizer"]["state"])
        assert_same({name: position[name] for name in POSITION if name in position}, checkpoint["ranks"][0])
        state = trainer.state_dict()
        for name in ("iter_num", "best_val_loss", "lowest_val_loss", "evaluated_at", "recovery", "callbacks"):
            assert_same(state[name], checkpoint[name])
        assert counter.seen == checkpoint["callbacks"]["Counter"]["seen"] and len(counter.seen) == 6
        assert trainer.checkpointer.run_id == checkpoint["run"]
        assert trainer.step.scaler.state_dict() == checkpoint["scaler"] == {}


def test_training_continues_as_that_version_did(saved: tuple[list[str], dict[str, Any], dict[str, Any]]) -> None:
    argv, _, expected = saved
    counter = Counter()
    train.main([*argv, f"--max_iters={expected['iter_num'] + 2}"], [counter])

    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["event"] == "step"]
    assert counter.batches == expected["batches"]
    assert losses == pytest.approx(expected["next_losses"], abs=1e-5)
    assert not any(line["event"] == "eval" and line["iter"] == 6 for line in lines)  # it was evaluated before that save


def test_checkpoints_and_manifests_have_one_key_more(
    saved: tuple[list[str], dict[str, Any], dict[str, Any]],
) -> None:
    argv, old, _ = saved
    old_manifest = read(Path("out/ckpt-000002.json"))
    train.main([*argv, "--max_iters=6"], [Counter()])

    checkpoint_file = core.CheckpointManager("out").load()
    assert checkpoint_file.manifest is not None and checkpoint_file.path.name == "ckpt-000003.pt"
    new = core.load_checkpoint(checkpoint_file.path)
    assert list(new) == [name for name in CHECKPOINT if name in new] and set(new) - set(old) == {"tokenizer"}
    assert list(new["ranks"][0]) == list(old["ranks"][0])
    always = [name for name in MANIFEST if name != "best_metric"]  # absent unless another metric decides
    assert list(checkpoint_file.manifest) == always
    renamed = {"data": "data_fingerprint"}
    assert {renamed.get(name, name) for name in old_manifest} == {*always} - {"data_position"}
    assert checkpoint_file.manifest["data_fingerprint"] == old_manifest["data"]
