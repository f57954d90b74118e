"""How a run starts, and what becomes of its folder."""

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
    """Data that is there."""

    def wait(self) -> None:
        pass


def enter(options: Options, run: core.Runtime, start: RunStart, needed: Any = ()) -> None:
    data: Any = NoWait()
    enter_folder(options, run, core.Preemption(), data, core.CheckpointManager(options.out_dir), start, needed)


def found_start(options: Options, run: core.Runtime) -> RunStart:
    return find_start(options, run, core.CheckpointManager(options.out_dir))


@pytest.fixture
def checkpoints(options: Options) -> core.CheckpointManager:
    return core.CheckpointManager(options.out_dir)


def saved(checkpoints: core.CheckpointManager) -> CheckpointFile:
    """Leave a previous run in its folder, and return its checkpoint."""
    notes = {"iter_num": 3, "val_loss": 2.0, "healthy": True}
    checkpoints.save(lambda path: torch.save({"model": {}, "model_args": {}}, path), notes)
    return checkpoints.load()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_a_run_has_its_folder_to_itself_until_it_ends(options: Options, folder: Path) -> None:
    with core.Runtime(device="cpu") as run:
        enter(options, run, found_start(options, run))
        assert names(folder) == [".lock"]
        assert not free(folder)
    assert free(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_nobody_else_writes_in_the_folder_once_it_is_looked_at(options: Options, folder: Path) -> None:
    """Else another run could save and end between the look and the lock, and its files would be moved away."""
    asked = options.model_copy(update={"init_from": "auto"})
    with core.Runtime(device="cpu") as run:
        assert found_start(asked, run)[:2] == ("scratch", None)
        assert not free(folder)


def test_a_look_makes_no_folder(options: Options, run: core.Runtime, tmp_path: Path) -> None:
    assert found_start(options, run)[:2] == ("scratch", None)
    assert not (tmp_path / "out").exists()


def free(folder: Path) -> bool:
    """Ask from another process, as locks are between processes."""
    program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    done = subprocess.run([sys.executable, "-c", program, folder / ".lock"], capture_output=True, text=True)
    assert done.returncode == 0 or "BlockingIOError" in done.stderr, done.stderr
    return done.returncode == 0


def test_a_fresh_start_moves_the_previous_run_away(
    options: Options, run: core.Runtime, checkpoints: core.CheckpointManager, folder: Path
) -> None:
    saved(checkpoints)
    (folder / "metrics.jsonl").touch()
    (folder / "notes.txt").touch()

    enter(options, run, RunStart("scratch", None, core.RunFolder(folder)))

    previous = ["ckpt-000001.json", "ckpt-000001.pt", "ckpt.pt", "metrics.jsonl"]
    assert names(folder) == [".lock", "notes.txt", *(f"previous-1/{name}" for name in previous)]


def test_a_fresh_start_does_not_move_what_it_needs(
    options: Options, run: core.Runtime, checkpoints: core.CheckpointManager, folder: Path
) -> None:
    file = saved(checkpoints).path

    with pytest.raises(core.ConfigError, match="which a new run clears"):
        enter(options, run, RunStart("scratch", None, core.RunFolder(folder)), [None, file])
    assert names(folder) == [".lock", "ckpt-000001.json", "ckpt-000001.pt", "ckpt.pt"]


def test_a_resume_moves_nothing_and_repairs_the_link(
    options: Options, run: core.Runtime, checkpoints: core.CheckpointManager, folder: Path
) -> None:
    found = saved(checkpoints)
    checkpoints.path.unlink()  # as if the process had been killed before it made that name

    enter(options, run, RunStart("resume", found, core.RunFolder(folder)))

    assert names(folder) == [".lock", "ckpt-000001.json", "ckpt-000001.pt", "ckpt.pt"]
    assert checkpoints.path.samefile(found.path)


def test_an_evaluation_alone_touches_no_folder(options: Options, run: core.Runtime, tmp_path: Path) -> None:
    asked = options.model_copy(update={"eval_only": True})

    enter(asked, run, found_start(asked, run))

    assert not (tmp_path / "out").exists()


def test_a_checkpoint_may_be_named(options: Options, run: core.Runtime, folder: Path) -> None:
    torch.save({"model": {}, "model_args": {}, "iter_num": 5}, folder / "mine.pt")
    asked = options.model_copy(update={"init_from": "resume", "ckpt_filename": "mine.pt"})

    start = found_start(asked, run)

    assert (start.init_from, start.found, start.manifest) == ("resume", CheckpointFile(folder / "mine.pt", None), None)
    checkpoint = start.read_checkpoint()
    assert checkpoint is not None and checkpoint["iter_num"] == 5
    with pytest.raises(core.CheckpointError, match="ckpt_filename is the name of a file in out_dir, or None"):
        found_start(asked.model_copy(update={"ckpt_filename": "other.pt"}), run)


def test_a_previous_run_stays_until_there_is_data(
    options: Options, run: core.Runtime, checkpoints: core.CheckpointManager, folder: Path
) -> None:
    saved(checkpoints)

    class Empty:
        def wait(self) -> None:
            raise core.DataError("waited")

    data: Any = Empty()
    with pytest.raises(core.DataError):
        enter_folder(
            options, run, core.Preemption(), data, checkpoints, RunStart("scratch", None, core.RunFolder(folder))
        )
    assert names(folder) == ["ckpt-000001.json", "ckpt-000001.pt", "ckpt.pt"]
