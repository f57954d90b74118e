"""Checkpointer: contents of a checkpoint, failing saves, rollback and resume."""

import copy
import errno
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from core.checkpoint.checkpointer import Checkpointer, RunNotes
from core.checkpoint.format import load_checkpoint
from core.checkpoint.manager import CheckpointManager
from core.checkpoint.save_schedule import SaveSchedule
from core.checkpoint.writer import TorchFile
from core.errors import CheckpointError, ConfigError
from core.machine.parallel import Replicated
from core.model_initializer import LoadedModel
from core.objective import LanguageModeling, Output
from core.runtime import Runtime
from core.stability.detector import InstabilityDetector
from core.training_step import TrainingStep
from tests.comparing import assert_same
from tests.core.tiny_run import Line

IDS = torch.ones(2, 3, dtype=torch.long)
CONFIG = {"dataset": "tiny", "batch_size": 4, "block_size": 3}
STATE: dict[str, Any] = {"iter_num": 5, "best_val_loss": 2.5, "mine": "kept"}
NOTES = {"iter_num": 5, "val_loss": None, "healthy": True}


class Data:
    """A data source whose state is the number of drawn batches."""

    def __init__(self) -> None:
        self.drawn = 0

    def get_batch(self, split: str) -> Any:
        self.drawn += 1
        return torch.randn(4, 3), torch.randn(4, 2)

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]


class Run:
    """A real checkpointer, with the objects that it saves."""

    def __init__(
        self, folder: Path, config: dict[str, Any] = CONFIG, in_background: bool = False, **changes: Any
    ) -> None:
        self.model, self.data, self.runtime = Line(3, 2), Data(), Runtime(device="cpu")
        fresh = copy.deepcopy(self.model)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        parallel = changes.pop("parallel", None)
        self.step = TrainingStep(self.model, LanguageModeling(), optimizer, self.data.get_batch, parallel)
        self.checkpoints, self.schedule = CheckpointManager(folder), SaveSchedule()
        self.checkpointer = Checkpointer(
            self.model,
            self.step,
            self.runtime,
            self.checkpoints,
            self.schedule,
            InstabilityDetector(),
            data=self.data,
            notes=RunNotes({"n": 1}, config, {"world_size": 1, "torch": "2"}),
            in_background=in_background,
            **{"make_model": lambda: (LoadedModel(copy.deepcopy(fresh), {}), None), **changes},
        )
        self.step.prefetch()

    def train(self, updates: int) -> None:
        for _ in range(updates):
            self.step.execute_step()

    def save(self, **changes: Any) -> Path | None:
        return self.checkpointer.save(STATE | changes, NOTES | changes, link=False)

    def weights(self) -> list[torch.Tensor]:
        moments = [value for state in self.step.optimizer.state.values() for value in state.values()]
        return [value.detach().clone() for value in (*self.model.parameters(), *moments)]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_checkpoint_has_nanogpts_keys_and_what_a_resume_needs(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(2)

    path = run.save()

    assert path is not None
    checkpoint = load_checkpoint(path)
    nanogpts = ["model", "optimizer", "model_args", "iter_num", "best_val_loss", "config"]
    assert list(checkpoint) == [*nanogpts, "tokenizer", "scaler", "ranks", "run", "mine"]
    assert list(checkpoint["ranks"][0]) == ["rng", "batch", "data", "detector"]
    assert checkpoint["ranks"][0]["data"] == {"drawn": 3}
    manifest = run.checkpoints.load().manifest or {}
    assert manifest["run"] == checkpoint["run"] == run.checkpointer.run_id
    assert (manifest["torch"], manifest["iter_num"], len(manifest["batch"])) == ("2", 5, 1)


def test_a_run_continues_from_a_restored_position_to_the_bit(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(2)
    position = run.checkpointer.position()
    weights = copy.deepcopy(run.model.state_dict()), copy.deepcopy(run.step.optimizer.state_dict())
    run.train(3)
    first, drawn = run.weights(), run.data.drawn

    run.model.load_state_dict(weights[0])
    run.step.optimizer.load_state_dict(weights[1])
    run.checkpointer.restore_position(position)
    run.train(3)

    assert same(run.weights(), first)
    assert run.data.drawn == drawn


class Counting(LanguageModeling):
    """An objective that counts its calls."""

    calls = 0

    def __call__(self, model: nn.Module, batch: Any, train: bool) -> Output:
        self.calls += 1
        return super().__call__(model, batch, train)

    def state_dict(self) -> dict[str, int]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


def test_a_position_includes_the_state_of_the_objective(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step.objective = objective = Counting()
    run.train(2)
    position = run.checkpointer.position()
    path = run.save()
    run.train(3)

    run.checkpointer.restore_position(position)

    assert objective.calls == 2
    assert path is not None and load_checkpoint(path)["ranks"][0]["objective"] == {"calls": 2}


def test_an_objectives_state_in_a_converted_checkpoint_is_restored(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step.objective = objective = Counting()

    converted = {"iter_num": 5, "config": {}, "objective": {"calls": 7}}

    assert not run.checkpointer.resume(converted, None, exact=True)[1]
    assert objective.calls == 7


# saves that fail


def test_a_run_that_stops_says_whether_there_is_a_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.checkpointer.kept == ", no checkpoint was saved yet"

    run.save()
    assert run.checkpointer.kept == ", the last checkpoint is untouched"
    resumed = Run(tmp_path).checkpointer
    resumed.resume(load_checkpoint(run.checkpoints.load().path), None, exact=False)
    assert resumed.kept == ", the last checkpoint is untouched"


def test_a_failing_save_is_logged_once_per_cause_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, replace = Run(tmp_path), os.replace
    reasons = iter([errno.ENOSPC, errno.ENOSPC, errno.EROFS])

    def full(*paths: Path) -> None:
        reason = next(reasons)
        raise OSError(reason, os.strerror(reason), *paths)  # each save has another file

    monkeypatch.setattr(os, "replace", full)
    for _ in range(3):
        assert run.save() is None
        assert run.checkpointer.failure is not None and run.schedule.retries and run.schedule.saved_at is None
    full_disk, read_only = caplog.messages
    start = re.escape(f"{tmp_path}: a checkpoint could not be saved ")
    assert re.fullmatch(start + r"\(No space left on device: only [\d.,]+ [KMGT]iB are free\)", full_disk)
    assert re.fullmatch(start + r"\(Read-only file system\)", read_only)
    assert not run.checkpointer.has_saved

    monkeypatch.setattr(os, "replace", replace)
    assert run.save() is not None
    assert (run.checkpointer.failure, run.schedule.retries, run.schedule.saved_at) == (None, False, 5)


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    run = Run(tmp_path / "out")
    run.save()
    for file in (tmp_path / "out").iterdir():
        file.unlink()
    (tmp_path / "out").rmdir()

    assert run.save() is not None
    assert run.checkpoints.load().manifest is not None


def test_a_background_save_writes_the_weights_of_its_start(tmp_path: Path) -> None:
    run = Run(tmp_path / "a", in_background=True)
    run.train(2)
    run.checkpointer.run_id = "1"
    assert run.checkpointer.save(STATE, NOTES, link=False) is None
    at_start = run.weights()
    run.train(5)
    path = run.checkpointer.join()

    assert path is not None and run.checkpointer.join() is None
    checkpoint = load_checkpoint(path)
    assert torch.equal(checkpoint["model"]["weight"], at_start[0])
    assert not torch.equal(checkpoint["model"]["weight"], run.model.weight)


def test_a_save_in_the_background_writes_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name, in_background in (("a", False), ("b", True)):
        torch.manual_seed(0)
        run = Run(tmp_path / name, in_background=in_background)
        run.train(2)
        run.checkpointer.run_id = "1"
        run.checkpointer.save(STATE, NOTES, link=False)
        run.checkpointer.join()
        contents.append((tmp_path / name / "ckpt-000001.pt").read_bytes())

    assert contents[0] == contents[1]


def test_a_failure_in_the_background_is_recorded_by_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, in_background=True)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        run.checkpointer.save(STATE, NOTES, link=False)
        assert run.checkpointer.join() is None
    assert "No space left" in str(run.checkpointer.failure)
    assert run.schedule.retries


@pytest.mark.parametrize("where", ["weight", "moment", "nowhere"])
def test_is_finite_checks_weights_and_moments(tmp_path: Path, where: str) -> None:
    run = Run(tmp_path)
    run.train(1)
    if where == "weight":
        with torch.no_grad():
            run.model.bias[1] = float("inf")
    if where == "moment":
        run.step.optimizer.state[run.model.weight]["exp_avg_sq"][1, 2] = float("nan")

    assert run.checkpointer.is_finite() is (where == "nowhere")


# rollback


def test_without_its_own_checkpoint_a_process_rolls_back_to_its_start(tmp_path: Path) -> None:
    run = Run(tmp_path)
    Run(tmp_path).save()  # of another process
    run.checkpointer.begin({"counter": 7, "iter_num": 0})
    start, drawn = run.weights(), run.data.drawn
    run.train(3)
    first = run.weights()

    state, name = run.checkpointer.roll_back()

    assert (state["counter"], name) == (7, "where this process started")
    assert same(run.weights(), start) and run.data.drawn == drawn
    run.train(3)
    assert same(run.weights(), first)


def test_by_default_a_copy_of_the_model_is_kept_for_a_rollback(tmp_path: Path) -> None:
    run = Run(tmp_path, make_model=None)
    run.checkpointer.begin({"iter_num": 0})
    start = run.weights()

    for _ in range(2):  # a rollback leaves the copy as it was
        run.train(2)
        assert not same(run.weights(), start)
        assert run.checkpointer.roll_back()[1] == "where this process started"
        assert same(run.weights(), start)


def test_a_resumed_process_rolls_back_to_the_moments_of_its_checkpoint(tmp_path: Path) -> None:
    _, checkpoint, _ = saved(tmp_path)
    resumed = Run(tmp_path)
    resumed.step.parallel.load_state_dict(resumed.model, resumed.step.optimizer, copy.deepcopy(checkpoint))
    model = LoadedModel(copy.deepcopy(resumed.model), {})
    resumed.checkpointer.make_model = lambda: (model, checkpoint)
    resumed.checkpointer.begin({"iter_num": 5})
    start = resumed.weights()
    resumed.train(3)

    resumed.checkpointer.roll_back()

    assert same(resumed.weights(), start)


def test_a_copy_that_is_kept_has_the_moments_of_a_resumed_run(tmp_path: Path) -> None:
    """One that is wired by hand, whose weights come after its checkpointer."""
    _, checkpoint, _ = saved(tmp_path)
    resumed = Run(tmp_path, make_model=None)
    resumed.step.parallel.load_state_dict(resumed.model, resumed.step.optimizer, checkpoint)
    resumed.checkpointer.begin({"iter_num": 5})
    start = resumed.weights()
    resumed.train(3)

    resumed.checkpointer.roll_back()

    assert len(start) > 2 and same(resumed.weights(), start)


def test_a_rollback_to_the_start_broadcasts_the_parameters_of_rank_0(tmp_path: Path) -> None:
    """Each rank makes its model from its own seed, and no DDP wrapper broadcasts it."""
    run = Run(tmp_path)
    run.checkpointer.begin({"counter": 7, "iter_num": 0})
    run.checkpointer.parallel.broadcast_parameters = lambda model: model.weight.data.fill_(7)  # type: ignore[method-assign]

    run.checkpointer.roll_back()

    assert run.model.weight.eq(7).all()


def test_a_rollback_is_to_the_newest_healthy_checkpoint_of_this_process(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.checkpointer.begin({"iter_num": 0})
    run.train(2)
    run.save(healthy=True)
    at_checkpoint = run.weights()
    run.train(3)
    first = run.weights()
    run.save(healthy=False, iter_num=8)

    state, name = run.checkpointer.roll_back()

    assert (state["mine"], name) == ("kept", "ckpt-000001.pt")
    assert run.schedule.saved_at == 5  # not that of the unhealthy one
    assert same(run.weights(), at_checkpoint)
    run.train(3)
    assert same(run.weights(), first)


def test_a_checkpoint_of_fewer_processes_is_not_rolled_back_to(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.checkpointer.begin({"iter_num": 0})
    run.save()
    run.runtime.world_size = 2

    assert run.checkpointer.roll_back()[1] == "where this process started"


def test_a_rollback_restores_the_scale_of_the_loss(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)  # doubles after every update
    run.checkpointer.begin({"iter_num": 0})
    run.train(1)
    run.save()
    run.train(2)

    run.checkpointer.roll_back()

    assert run.step.scaler.get_scale() == 16.0


def test_a_rollback_joins_a_save_in_the_background(tmp_path: Path) -> None:
    run = Run(tmp_path, in_background=True)
    run.checkpointer.begin({"iter_num": 0})
    run.checkpointer.save(STATE, NOTES, link=False)

    assert run.checkpointer.roll_back()[1] == "ckpt-000001.pt"
    assert run.checkpointer.join() is None  # otherwise a failure would be reported after the rollback


def test_a_list_in_a_callbacks_state_survives_every_rollback(
    tmp_path: Path,
) -> None:
    run, seen = Run(tmp_path), [0]
    run.checkpointer.begin({"iter_num": 0, "callbacks": {"Seen": {"seen": seen}}})
    for _ in range(2):
        seen.append(1)
        state, _ = run.checkpointer.roll_back()
        assert state["callbacks"] == {"Seen": {"seen": [0]}}
        seen = state["callbacks"]["Seen"]["seen"]


def test_a_callback_with_a_state_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^Best\.state_dict\(\) holds more than tensors and plain Python values"):
        Run(tmp_path).checkpointer.begin({"callbacks": {"Fine": {"a": 1}, "Best": {"best": np.float64(1.0)}}})


def test_a_rollback_clears_the_failure_of_a_save(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.checkpointer.begin({"iter_num": 0})
    run.checkpointer.failure = "a weight is not finite"

    run.checkpointer.roll_back()

    assert run.checkpointer.failure is None


def test_gradients_of_an_update_that_is_undone_are_dropped(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.checkpointer.begin({"iter_num": 0})
    run.model(*run.step.batch)[1].backward()

    run.checkpointer.roll_back()

    assert all(parameter.grad is None for parameter in run.model.parameters())


# resume


def saved(folder: Path) -> tuple[Run, dict[str, Any], dict[str, Any]]:
    run = Run(folder)
    run.train(2)
    run.save()
    latest = run.checkpoints.load()
    assert latest.manifest is not None
    return run, load_checkpoint(latest.path), latest.manifest


def test_a_resume_restores_the_position_and_the_run_id(tmp_path: Path) -> None:
    run, checkpoint, manifest = saved(tmp_path)
    resumed = Run(tmp_path)

    assert resumed.checkpointer.resume(checkpoint, manifest, exact=True)[1]

    assert torch.equal(resumed.step.batch[0], run.step.batch[0])  # type: ignore[index]
    assert resumed.checkpointer.run_id == run.checkpointer.run_id
    assert resumed.schedule.saved_at == 5  # nothing new to save
    assert torch.equal(torch.rand(3), _next_draw(checkpoint))


def _next_draw(checkpoint: dict[str, Any]) -> torch.Tensor:
    generator = torch.Generator()
    generator.set_state(checkpoint["ranks"][0]["rng"]["cpu"])
    return torch.rand(3, generator=generator)


def test_the_saved_batch_is_compared_with_the_manifests_fingerprint(tmp_path: Path) -> None:
    _, checkpoint, manifest = saved(tmp_path)
    checkpoint["ranks"][0]["batch"][0][1, 2] += 1

    with pytest.raises(CheckpointError, match="^ckpt-000001.pt: the batch that waits in it is not the one"):
        Run(tmp_path).checkpointer.resume(checkpoint, manifest, exact=True)


@pytest.mark.parametrize("name", ["dataset", "batch_size", "block_size"])
def test_a_saved_batch_that_does_not_fit_is_not_restored(tmp_path: Path, name: str) -> None:
    _, checkpoint, manifest = saved(tmp_path)
    resumed = Run(tmp_path, config=CONFIG | {name: "other"})

    assert resumed.checkpointer.resume(checkpoint, manifest, exact=True)[1]
    assert resumed.step.batch is None


@pytest.mark.parametrize(
    "batch",
    ["x", {"input": IDS, "target": IDS}, (IDS, IDS, IDS)],
    ids=["no tensors", "of another objective", "one tensor more"],
)
def test_a_waiting_batch_of_another_model_is_not_restored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, batch: Any
) -> None:
    """A manifest has the batch's hash; in a file without one the batch may be any."""
    _, checkpoint, _ = saved(tmp_path)
    checkpoint["ranks"][0]["batch"] = batch
    resumed = Run(tmp_path)

    with caplog.at_level("INFO", logger="coregpt"):
        assert not resumed.checkpointer.resume(checkpoint, None, exact=True)[1]
    assert caplog.messages[0].startswith("resume: the checkpoint has a waiting batch that is not for this model; ")


def test_an_id_of_a_run_that_is_no_text_is_not_kept(tmp_path: Path) -> None:
    """A manifest could not hold it, and no save would succeed."""
    _, checkpoint, manifest = saved(tmp_path)
    resumed = Run(tmp_path)
    own = resumed.checkpointer.run_id

    resumed.checkpointer.resume(checkpoint | {"run": torch.zeros(2)}, manifest, exact=True)

    assert resumed.checkpointer.run_id == own


@pytest.mark.parametrize(
    ("count", "reason"), [(None, "no random state"), (0, "no random state"), (4, "4 random states, wanted 1")]
)
def test_the_reason_for_an_inexact_resume_is_reported(
    tmp_path: Path, count: int | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, checkpoint, manifest = saved(tmp_path)
    ranks = checkpoint.pop("ranks")
    if count is not None:
        checkpoint["ranks"] = ranks * count
    resumed = Run(tmp_path)
    before = torch.get_rng_state()

    with caplog.at_level("INFO", logger="coregpt"):
        assert not resumed.checkpointer.resume(checkpoint, manifest, exact=True)[1]
    (note,) = caplog.messages
    assert note == (
        f"resume: the checkpoint has {reason}; weights, optimizer and counters are exact, but other batches follow, as "
        "with --resume_rng=reseed"
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_a_position_in_another_kind_of_data_is_not_restored(tmp_path: Path) -> None:
    """For example if batches came from files before, and come from a queue now."""
    _, checkpoint, manifest = saved(tmp_path)
    checkpoint["ranks"][0]["data"] = {"file": 3, "offset": 2}
    resumed = Run(tmp_path)

    assert not resumed.checkpointer.resume(checkpoint, manifest, exact=True)[1]
    assert resumed.data.drawn == 1


def test_an_inexact_resume_restores_no_position(tmp_path: Path) -> None:
    _, checkpoint, manifest = saved(tmp_path)
    resumed = Run(tmp_path)
    batch = resumed.step.batch

    assert not resumed.checkpointer.resume(checkpoint, manifest, exact=False)[1]
    assert resumed.step.batch is batch and resumed.data.drawn == 1


# positions in the manifest


def test_a_manifest_has_each_ranks_position_in_the_data(tmp_path: Path) -> None:
    _, _, manifest = saved(tmp_path)

    assert manifest["data_position"] == [{"drawn": 3}]


def test_a_position_that_is_not_json_is_saved_in_the_checkpoint_only(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.data.state_dict = lambda: {"drawn": torch.tensor(3)}  # type: ignore[assignment, method-assign]

    path = run.save()

    assert path is not None and load_checkpoint(path)["ranks"][0]["data"] == {"drawn": 3}
    assert (run.checkpoints.load().manifest or {})["data_position"] == [None]


# batches of any structure


def nested() -> Any:
    """Return a batch of dicts, tuples, lists and plain values."""
    inputs = {"text": torch.arange(6).view(2, 3), "image": (torch.rand(2, 4), None)}
    return {"inputs": inputs, "lengths": [3, 2], "seed": torch.tensor(7), "name": "first"}


def test_a_batch_of_any_structure_is_fingerprinted_saved_and_resumed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step.batch = batch = nested()
    run.save()
    latest = run.checkpoints.load()
    resumed = Run(tmp_path)

    assert resumed.checkpointer.resume(load_checkpoint(latest.path), latest.manifest, exact=True)[1]
    assert_same(resumed.step.batch, batch)


# other formats and strategies


class Folder(TorchFile):
    """Writes a folder with one file of weights and one of the rest, and counts calls of `gather`."""

    suffix = ""

    def __init__(self) -> None:
        self.gathered = 0

    def gather(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        self.gathered += 1
        return {**checkpoint, "parts": self.gathered}

    def write(self, checkpoint: dict[str, Any], path: Path) -> None:
        path.mkdir()
        torch.save(checkpoint.pop("model"), path / "model.pt")
        torch.save(checkpoint, path / "rest.pt")

    def read(self, path: Path) -> dict[str, Any]:
        parts = [torch.load(path / name, weights_only=True) for name in ("model.pt", "rest.pt")]
        return {"model": parts[0], **parts[1]}


def test_a_checkpoint_may_be_a_folder(tmp_path: Path) -> None:
    run = Run(tmp_path, writer=Folder())
    run.checkpointer.begin({"iter_num": 0})
    run.train(2)
    run.save()
    at_checkpoint = run.weights()
    run.train(3)
    after = run.weights()

    state, name = run.checkpointer.roll_back()

    assert (name, state["iter_num"], state["parts"]) == ("checkpoint-5", 5, 1)
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["model.pt", "rest.pt"]
    assert same(run.weights(), at_checkpoint)
    run.train(3)
    assert same(run.weights(), after)


class RecordingStrategy(Replicated):
    """Records which state functions of the strategy are called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def state_dict(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        self.calls.append("state_dict")
        return super().state_dict(model, optimizer)

    def load_state_dict(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        self.calls.append("load_state_dict")
        super().load_state_dict(model, optimizer, state)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_strategy_saves_and_loads_the_weights_on_every_rank(
    tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy, writer = RecordingStrategy(), Folder()
    run = Run(tmp_path, parallel=strategy, writer=writer)
    run.checkpointer.begin({"iter_num": 0})
    if rank == 1:  # only rank 0 computes what is broadcast
        received = iter([(tmp_path / "checkpoint-0", None), None])
        monkeypatch.setattr(run.runtime, "on_master", lambda compute: next(received))

    run.save()
    run.checkpointer.roll_back()

    assert strategy.calls == ["state_dict", "load_state_dict"]
    assert writer.gathered == 1
    assert any(tmp_path.glob("checkpoint-*")) is (rank == 0)
