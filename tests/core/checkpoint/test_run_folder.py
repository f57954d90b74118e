"""RunFolder: its lock, and the move of the previous run's files."""

import errno
import logging
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.checkpoint import run_folder
from core.checkpoint.run_folder import CONFIG_MARK, RunFolder, keep_config
from core.errors import ConfigError

fcntl = pytest.importorskip("fcntl", reason="for POSIX locks")
ROOT = Path(__file__).parents[3]

TRAINER = """
import sys
from core.checkpoint.run_folder import RunFolder
RunFolder(sys.argv[1]).claim()
print("claimed", flush=True)
sys.stdin.read()
"""
OTHER = """
import fcntl, sys, time
file = open(sys.argv[1] + "/.lock", "a+")
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("refused", flush=True)
else:
    print("claimed", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start(program: str, *arguments: object) -> tuple["subprocess.Popen[str]", str]:
    """Start another process and wait for its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    return process, process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def claim_by_another_process(folder: Path) -> str:
    """Let another process try to lock the folder; return "claimed" or "refused"."""
    process, result = start(OTHER, folder, 0)
    process.communicate()
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder(tmp_path / "out")
    yield folder
    folder.release()


def test_the_folder_is_not_made_before_the_claim(folder: RunFolder) -> None:
    assert not folder.path.exists()


def test_claim_makes_the_folder_and_signs_its_lock(tmp_path: Path) -> None:
    for _ in range(2):
        folder = RunFolder(tmp_path / "a" / "b")
        folder.claim()

        assert os.listdir(folder.path) == [".lock"]
        folder.release()
        assert (folder.path / ".lock").read_text() == f"{os.getpid()} {socket.gethostname()}\n"
        (folder.path / ".lock").write_text("1234567890 a-host-with-a-long-name.example.org\n")


def test_a_second_trainer_is_refused_until_the_first_has_ended(folder: RunFolder) -> None:
    first, result = start(TRAINER, folder.path)
    try:
        assert result == "claimed"
        for _ in range(2):  # a refused claim changes neither the lock nor its signature
            with pytest.raises(ConfigError) as refused:
                folder.claim()
            assert str(refused.value).startswith(f"out_dir={str(folder.path)!r} is in use by process {first.pid} on ")
            assert "choose another out_dir, or stop that run first" in str(refused.value)
    finally:
        end(first)  # by SIGKILL

    folder.claim()
    assert (folder.path / ".lock").read_text().split()[0] == str(os.getpid())


def test_lock_keeps_another_process_out_until_it_is_released(folder: RunFolder) -> None:
    folder.claim()
    folder.claim()  # a second claim changes nothing
    assert claim_by_another_process(folder.path) == "refused"

    folder.release()
    folder.release()
    assert claim_by_another_process(folder.path) == "claimed"
    assert (folder.path / ".lock").exists()


def test_claim_waits_for_a_process_that_is_ending(folder: RunFolder) -> None:
    folder.path.mkdir()
    ending, result = start(OTHER, folder.path, 0.5)
    assert result == "claimed"

    t0 = time.monotonic()
    folder.claim(wait_s=20)

    assert 0.1 < time.monotonic() - t0 < 10
    end(ending)


def test_claim_waits_at_most_wait_s(folder: RunFolder) -> None:
    folder.path.mkdir()
    (folder.path / ".lock").write_bytes(b"\x1b[2J \xff")  # a signature that cannot be printed
    other, _ = start(OTHER, folder.path, 10)

    with pytest.raises(ConfigError, match="is in use by another process: choose"):
        folder.claim(wait_s=0.1)
    end(other)


def test_a_removed_folder_is_claimed_again(folder: RunFolder) -> None:
    folder.claim()
    folder.path.rename(folder.path.with_name("gone"))

    folder.claim()

    assert claim_by_another_process(folder.path) == "refused"
    assert claim_by_another_process(folder.path.with_name("gone")) == "claimed"


def test_a_removed_folder_that_another_process_claimed_is_refused(folder: RunFolder) -> None:
    folder.claim()
    folder.path.rename(folder.path.with_name("gone"))
    folder.path.mkdir()
    other, _ = start(OTHER, folder.path, 10)

    with pytest.raises(ConfigError, match="is in use"):
        folder.claim()
    end(other)


def test_an_out_dir_that_is_or_is_in_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")

    for path, cause in ((tmp_path / "out", "it is a file"), (tmp_path / "out" / "deeper", "Not a directory")):
        with pytest.raises(ConfigError, match=f"out_dir='{path}' cannot be written to: {cause}; choose another"):
            RunFolder(path).claim()
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda lock: lock.mkdir(), "a folder"),
        (os.mkfifo, "a named pipe"),
        (lambda lock: lock.symlink_to("nowhere"), "a symbolic link to nowhere, where there is no file"),
        (lambda lock: lock.symlink_to(__file__), "a symbolic link"),
    ],
)
def test_a_lock_that_is_no_file_is_named(folder: RunFolder, make: Callable[[Path], None], kind: str) -> None:
    folder.path.mkdir()
    make(folder.path / ".lock")

    with pytest.raises(ConfigError, match=rf"/\.lock is {kind}, in place of the run's lock file: remove it, or choose"):
        folder.claim()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_is_refused(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Also if the folder exists already."""
    folder.path.mkdir()

    def touch(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(ConfigError, match=f"cannot be written to: {os.strerror(number)}; choose another"):
        folder.claim()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder_is_refused(folder: RunFolder) -> None:
    folder.path.mkdir(mode=0o500)

    with pytest.raises(ConfigError, match="cannot be written to: Permission denied; choose another"):
        folder.claim()


def test_a_link_instead_of_the_lock_file_is_not_written_through(folder: RunFolder, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder.path.mkdir()
    (folder.path / ".lock").symlink_to(precious)

    with pytest.raises(ConfigError, match=r"/\.lock is a symbolic link, in place of the run's lock file"):
        folder.claim()
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_locked_is_used_with_a_warning(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def lockf(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    folder.claim()

    assert len(caplog.messages) == 1
    assert f"cannot be locked ({os.strerror(number)})" in caplog.messages[0]


def test_without_fcntl_a_folder_is_used_with_a_warning(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_folder, "fcntl", None)
    folder.claim()

    assert ["cannot be locked" in message for message in caplog.messages] == [True]


# in the order of the move
PREVIOUS_RUN = [
    "ckpt.pt",
    "ckpt.pt.foreign",
    "ckpt.pt.foreign-2",
    "ckpt.pt.part",
    "ckpt-000002.json",
    "ckpt-000002.pt",
    "ckpt-000010.json",
    "ckpt-000010",
    "ckpt-1000001.json",
    "ckpt-1000001.json.part",
    "ckpt-1000001.pt",
    "config.yaml",
    "metrics.jsonl",
    "wandb",
]
FOLDERS = ("ckpt-000010", "wandb")
STAY = [".lock", "ckpt-notes.txt", "config.yml", "metrics.jsonl.bak", "my-ckpt.pt", "previous"]


def make_run(folder: Path, mark: str) -> None:
    """Write the files of a previous run in a shuffled order; every file holds its name and the mark."""
    folder.mkdir(exist_ok=True)
    for name in random.Random(1).sample(PREVIOUS_RUN, len(PREVIOUS_RUN)):
        if name in FOLDERS:
            (folder / name).mkdir()
            (folder / name / "inside").write_text(f"{name} {mark}")
        else:
            (folder / name).write_text(text_of(name, mark))


def text_of(name: str, mark: str) -> str:
    return f"{CONFIG_MARK if name == 'config.yaml' else name} {mark}"


def contents(folder: Path) -> dict[str, str]:
    """Return the text of every file in a folder by name; for a subfolder, that of its file `inside`."""
    files = {path.name: path / "inside" if path.is_dir() else path for path in folder.iterdir()}
    return {name: file.read_text() for name, file in files.items() if file.exists()}


def previous_run(mark: str) -> dict[str, str]:
    return {name: text_of(name, mark) for name in PREVIOUS_RUN}


def test_a_previous_run_moves_and_the_rest_stays(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    make_run(folder.path, "a")
    for name in STAY:
        (folder.path / name).write_text("stays")

    with caplog.at_level(logging.INFO, logger="coregpt"):
        previous = folder.move_previous_run()

    assert previous == folder.path / "previous-1"
    assert contents(previous) == previous_run("a")
    assert contents(folder.path) == {name: "stays" for name in STAY}
    assert caplog.messages == [f"{folder.path}: the previous run's files are now in {previous}"]


def test_every_previous_run_gets_its_own_folder(folder: RunFolder) -> None:
    for number, mark in enumerate("abc", start=1):
        make_run(folder.path, mark)
        assert folder.move_previous_run() == folder.path / f"previous-{number}"
    (folder.path / "previous-2").rename(folder.path / "kept")
    make_run(folder.path, "d")

    assert folder.move_previous_run() == folder.path / "previous-4"
    assert contents(folder.path / "previous-3") == previous_run("c")


def test_without_a_previous_run_nothing_is_made(folder: RunFolder) -> None:
    folder.claim()

    assert folder.move_previous_run() is None
    assert os.listdir(folder.path) == [".lock"]


@pytest.mark.parametrize("name", ["ckpt.pt", "ckpt-000002.pt"])
def test_files_that_the_new_run_needs_are_not_moved(
    folder: RunFolder, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(folder.path, "a")
    (folder.path / "mine.pt").touch()

    with pytest.raises(
        ConfigError, match=rf"{name} is in out_dir=.*, which a new run clears: give this run an out_dir"
    ):
        folder.move_previous_run([folder.path / "mine.pt", folder.path / name])
    monkeypatch.chdir(folder.path.parent)
    with pytest.raises(ConfigError, match=r"which a new run clears"):
        folder.move_previous_run([Path(folder.path.name, name)])
    (tmp_path / "link.pt").symlink_to(folder.path / name)
    with pytest.raises(ConfigError, match=r"link.pt is in out_dir="):
        folder.move_previous_run([tmp_path / "link.pt"])
    assert contents(folder.path) == {**previous_run("a"), "mine.pt": ""}
    os.link(folder.path / name, tmp_path / "kept.pt")  # a second name of the file is not moved
    folder.move_previous_run([tmp_path / "kept.pt", tmp_path / "gone.pt"])
    assert (folder.path / "previous-1" / name).exists() and (folder.path / "mine.pt").exists()


def test_the_lock_is_still_held_after_the_move(folder: RunFolder) -> None:
    folder.claim()
    make_run(folder.path, "a")
    folder.move_previous_run()

    assert claim_by_another_process(folder.path) == "refused"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("moved", range(len(PREVIOUS_RUN)))
def test_interrupted_move_loses_nothing(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, moved: int, error: BaseException
) -> None:
    make_run(folder.path, "a")
    rename, calls = os.rename, []

    def failing(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) > moved:
            raise error
        rename(source, target)

    with monkeypatch.context() as patched, pytest.raises((ConfigError, KeyboardInterrupt)) as failed:
        patched.setattr(os, "rename", failing)
        folder.move_previous_run()
    assert isinstance(failed.value, KeyboardInterrupt) or "cannot be moved to" in str(failed.value)
    assert set(contents(folder.path / "previous-1")) == set(PREVIOUS_RUN[:moved])
    (folder.path / "previous-1" / PREVIOUS_RUN[-1]).mkdir()  # would be in the way if the folder were used again

    assert folder.move_previous_run() == folder.path / "previous-2"
    assert contents(folder.path / "previous-1") | contents(folder.path / "previous-2") == previous_run("a")
    assert contents(folder.path) == {}


def test_a_link_that_is_moved_still_leads_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "blob").write_text("weights")
    (tmp_path / "out" / "ckpt.pt").symlink_to("../blob")
    (tmp_path / "out" / "ckpt-000001.pt").write_text("ours")
    (tmp_path / "out" / "ckpt-other.pt").symlink_to("ckpt-000001.pt")
    (tmp_path / "out" / "ckpt-gone.pt").symlink_to("gone")

    moved = RunFolder(tmp_path / "out").move_previous_run()

    assert moved is not None and (moved / "ckpt.pt").is_symlink() and (moved / "ckpt.pt").read_text() == "weights"
    assert (moved / "ckpt-other.pt").readlink() == Path("ckpt-000001.pt")
    assert (moved / "ckpt-gone.pt").is_symlink() and sorted(os.listdir(tmp_path / "out")) == ["previous-1"]


# the options of the run


def test_options_of_a_run_that_left_nothing_else_do_not_move(folder: RunFolder) -> None:
    folder.path.mkdir(exist_ok=True)
    (folder.path / "config.yaml").write_text(f"{CONFIG_MARK}\n")

    assert folder.move_previous_run() is None


def test_a_users_own_config_file_neither_moves_nor_changes(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    make_run(folder.path, "a")
    config = folder.path / "config.yaml"
    config.write_text("seed: 1")

    with caplog.at_level(logging.INFO, logger="coregpt"):
        folder.move_previous_run()
        keep_config(config, lambda path: pytest.fail("it is written"))

    assert config.read_text() == "seed: 1"
    assert caplog.messages[1:] == [
        f"{config} is not of a run, and stays: the options of this run are in {folder.path}/metrics.jsonl"
    ]


def test_the_options_of_a_run_replace_those_of_the_run_before(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    for number in ("1", "2"):
        keep_config(config, lambda path, text=f"{CONFIG_MARK} {number}": path.write_text(text))  # type: ignore[misc]
        assert config.read_text() == f"{CONFIG_MARK} {number}"


def test_options_that_cannot_be_written_do_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device")

    keep_config(tmp_path / "config.yaml", fail)

    assert caplog.messages == [
        f"{tmp_path}/config.yaml could not be written, the run goes on (No space left on device)"
    ]
