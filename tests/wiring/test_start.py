"""The start of a run, its checkpoint, and the files in its folder."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import core
from config.options import Options
from core.checkpoint.search import CheckpointFile
from wiring.start import RunStart, enter_folder, find_start


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(out_dir=str(tmp_path / "out"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


class NoWait:
    """Data that is available at once."""

    def wait(self) -> None:
        pass


class NeverReady:
    """Data that never becomes available."""

    def wait(self) -> None:
        raise core.DataError("waited")


def enter(options: Options, run: core.Runtime, start: RunStart, needed: Any = (), data: Any = None) -> None:
    data = data or NoWait()
    enter_folder(options, run, core.Preemption(), data, core.CheckpointManager(options.out_dir), start, needed)


def make_start(options: Options, run: core.Runtime) -> RunStart:
    return find_start(options, run, core.CheckpointManager(options.out_dir))


@pytest.fixture
def checkpoints(options: Options) -> core.CheckpointManager:
    return core.CheckpointManager(options.out_dir)


def saved(checkpoints: core.CheckpointManager) -> CheckpointFile:
    """Save a checkpoint of a previous run, and return its file."""
    notes = {"iter_num": 3, "val_loss": 2.0, "healthy": True}
    checkpoints.save(lambda path: torch.save({"model": {}, "model_args": {}}, path), notes)
    return checkpoints.load()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("follows", "start"), [(False, "scratch"), (True, "resume")])
def test_a_restart_that_torchrun_did_not_count_here_is_noticed(
    options: Options, run: core.Runtime, monkeypatch: pytest.MonkeyPatch, follows: bool, start: str
) -> None:
    """On a node whose ranks were restarted because another node lost a rank, torchrun counts no restart."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "this")
    notes = {"iter_num": 3, "val_loss": 2.0, "healthy": True, "launch": "this"}
    core.CheckpointManager(options.out_dir).save(lambda path: torch.save({"model": {}}, path), notes)
    run.follows_earlier_group = follows

    assert make_start(options, run).init_from == start


@pytest.mark.parametrize(("given", "near"), [("resum", "resume"), ("Scratch", "scratch"), ("gpt2xl", "gpt2-xl")])
def test_a_misspelt_start_is_named_before_anything_else(
    options: Options, run: core.Runtime, given: str, near: str
) -> None:
    with pytest.raises(core.ConfigError, match=rf"init_from='{given}' is not known: .*; did you mean {near}\?"):
        make_start(options.model_copy(update={"init_from": given}), run)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_a_run_locks_its_folder_until_it_ends(options: Options, folder: Path) -> None:
    with core.Runtime(device="cpu") as run:
        enter(options, run, make_start(options, run))
        assert names(folder) == [".lock"]
        assert not is_unlocked(folder)
    assert is_unlocked(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_the_folder_is_locked_before_the_search_for_a_checkpoint(options: Options, folder: Path) -> None:
    """Otherwise another run could save and end between search and lock, and its files would be moved."""
    changed_options = options.model_copy(update={"init_from": "auto"})
    with core.Runtime(device="cpu") as run:
        assert make_start(changed_options, run)[:2] == ("scratch", None)
        assert not is_unlocked(folder)


@pytest.mark.parametrize(("count", "follows", "wait_s"), [("0", False, 0), ("1", False, 30), ("0", True, 30)])
def test_only_a_restarted_group_waits_for_the_lock(
    options: Options,
    run: core.Runtime,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: str,
    follows: bool,
    wait_s: int,
) -> None:
    """A process of the group that failed may still be ending."""
    run.follows_earlier_group = follows
    waits: list[float] = []
    monkeypatch.setattr(core.RunFolder, "claim", lambda folder, wait_s: waits.append(wait_s))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)

    make_start(options, run)

    assert waits == [wait_s]


def test_the_search_for_a_checkpoint_creates_no_folder(options: Options, run: core.Runtime, tmp_path: Path) -> None:
    assert make_start(options, run)[:2] == ("scratch", None)
    assert not (tmp_path / "out").exists()


def is_unlocked(folder: Path) -> bool:
    """Return True if another process can lock the folder."""
    program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    done = subprocess.run([sys.executable, "-c", program, folder / ".lock"], capture_output=True, text=True)
    assert done.returncode == 0 or "BlockingIOError" in done.stderr, done.stderr
    return done.returncode == 0


def test_a_new_run_moves_the_previous_run_to_a_subfolder(
    options: Options, run: core.Runtime, checkpoints: core.CheckpointManager, folder: Path
) -> None:
    saved(checkpoints)
    (folder / "metrics.jsonl").touch()
    (folder / "notes.txt").touch()

    enter(options, run, RunStart("scratch", None, core.RunFolder(folder)))

    previous = ["ckpt-000001.json", "ckpt-000001.pt", "ckpt.pt", "metrics.jsonl"]
    assert names(folder) == [".lock", "notes.txt", *(f"previous-1/{name}" for name in previous)]


def test_a_new_run_does_not_move_a_file_that_it_needs(
    options: Options, run: core.Runtime, checkpoints: core.CheckpointManager, folder: Path
) -> None:
    file = saved(checkpoints).path

    with pytest.raises(core.ConfigError, match="which a new run clears"):
        enter(options, run, RunStart("scratch", None, core.RunFolder(folder)), [None, file])
    assert names(folder) == [".lock", "ckpt-000001.json", "ckpt-000001.pt", "ckpt.pt"]


def test_a_resume_moves_nothing_and_repairs_the_link(
    options: Options, run: core.Runtime, checkpoints: core.CheckpointManager, folder: Path
) -> None:
    checkpoint_file = saved(checkpoints)
    checkpoints.path.unlink()  # as after a kill between the save and the link

    enter(options, run, RunStart("resume", checkpoint_file, core.RunFolder(folder)))

    assert names(folder) == [".lock", "ckpt-000001.json", "ckpt-000001.pt", "ckpt.pt"]
    assert checkpoints.path.samefile(checkpoint_file.path)


def test_eval_only_creates_no_folder(options: Options, run: core.Runtime, tmp_path: Path) -> None:
    changed_options = options.model_copy(update={"eval_only": True})

    enter(changed_options, run, make_start(changed_options, run))

    assert not (tmp_path / "out").exists()


def test_a_checkpoint_can_be_chosen_by_its_file_name(options: Options, run: core.Runtime, folder: Path) -> None:
    torch.save({"model": {}, "model_args": {}, "iter_num": 5}, folder / "mine.pt")
    changed_options = options.model_copy(update={"init_from": "resume", "ckpt_filename": "mine.pt"})

    start = make_start(changed_options, run)

    assert (start.init_from, start.found, start.manifest) == ("resume", CheckpointFile(folder / "mine.pt", None), None)
    checkpoint = start.read_checkpoint()
    assert checkpoint is not None and checkpoint["iter_num"] == 5
    with pytest.raises(core.CheckpointError, match="ckpt_filename is the name of a file in out_dir, or None"):
        make_start(changed_options.model_copy(update={"ckpt_filename": "other.pt"}), run)


def test_a_checkpoint_of_another_program_is_completed_and_checked(
    options: Options, run: core.Runtime, folder: Path
) -> None:
    changed_options = options.model_copy(update={"init_from": "resume", "ckpt_filename": "mine.pt"})
    torch.save({"model": {}, "model_args": {}}, folder / "mine.pt")
    start = make_start(changed_options, run)

    checkpoint = start.read_checkpoint()
    assert checkpoint is not None
    assert (checkpoint["iter_num"], checkpoint["optimizer"], checkpoint["best_val_loss"]) == (0, None, 1e9)

    moments = {"state": {0: {"exp_avg": torch.tensor([float("nan")])}}, "param_groups": [{}]}
    torch.save({"model": {}, "model_args": {}, "optimizer": moments}, folder / "mine.pt")
    with pytest.raises(core.CheckpointError, match="optimizer state is not finite"):
        start.read_checkpoint()


def test_a_damaged_checkpoint_chosen_by_its_name_is_refused(options: Options, run: core.Runtime, folder: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(999)}, "model_args": {}}, folder / "mine.pt")
    content = (folder / "mine.pt").read_bytes()
    (folder / "mine.pt").write_bytes(content.replace(bytes(999), bytes(998) + b"1", 1))  # one byte of the weight

    start = make_start(options.model_copy(update={"init_from": "resume", "ckpt_filename": "mine.pt"}), run)

    with pytest.raises(core.CheckpointError, match="truncated, damaged, or holds more"):
        start.read_checkpoint()


def test_a_previous_run_is_not_moved_before_data_is_available(
    options: Options, run: core.Runtime, checkpoints: core.CheckpointManager, folder: Path
) -> None:
    saved(checkpoints)

    with pytest.raises(core.DataError):
        enter(options, run, RunStart("scratch", None, core.RunFolder(folder)), data=NeverReady())
    assert names(folder) == ["ckpt-000001.json", "ckpt-000001.pt", "ckpt.pt"]


def test_one_of_several_processes_does_not_wait_for_data(options: Options, run: core.Runtime, folder: Path) -> None:
    run.world_size = 2

    enter(options, run, RunStart("scratch", None, core.RunFolder(folder)), data=NeverReady())

    assert names(folder) == [".lock"]


class Unsaveable(core.Callback):
    """A callback whose state a checkpoint cannot hold."""

    def state_dict(self) -> dict[str, Any]:
        return {"folder": Path()}


class BeginsLate(core.Callback):
    """A callback that has no state before training begins."""

    def on_train_begin(self, trainer: core.Trainer) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}


def test_a_callback_is_refused_before_a_previous_run_is_moved(
    options: Options, run: core.Runtime, folder: Path, checkpoints: core.CheckpointManager
) -> None:
    saved(checkpoints)
    before = names(folder)
    start, data = RunStart("scratch", None, core.RunFolder(folder)), NoWait()

    with pytest.raises(core.ConfigError, match=r"^Unsaveable\.state_dict\(\) holds more than tensors"):
        enter_folder(options, run, core.Preemption(), data, checkpoints, start, callbacks=[Unsaveable()])  # type: ignore[arg-type]
    assert names(folder) == before


def test_a_callback_may_make_its_state_when_training_begins(
    options: Options, run: core.Runtime, folder: Path, checkpoints: core.CheckpointManager
) -> None:
    start, data = RunStart("scratch", None, core.RunFolder(folder)), NoWait()
    enter_folder(options, run, core.Preemption(), data, checkpoints, start, callbacks=[BeginsLate()])  # type: ignore[arg-type]

    assert folder.is_dir()
