"""The folder of one run: made, writable, locked, and cleared of a previous run."""

import errno
import logging
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from core import files
from core.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("coregpt")
LOCK = ".lock"
CHECKPOINT = re.compile(r"ckpt.*\.(pt|json)(\.part)?|ckpt\.pt\.foreign.*")
CHECKPOINT_FOLDER = re.compile(r"ckpt-.*|checkpoint-\d+(-\d+)?\.part")
FINAL = "final_model"  # folder with the model at the end of a run, for other programs
OWN_FOLDER = re.compile(rf"checkpoint-(\d+)(-\d+)?|{FINAL}")  # other trainers have such folders as well
OPTIONS = "options.yaml"  # in each of these folders: the options of the run
CONFIG = "config.yaml"  # the options of the run
CONFIG_MARK = "# written by coreGPT"  # its beginning; a file of the user has another one
REPORTS = ("metrics.jsonl", "wandb", "ema.pt", CONFIG)  # ema.pt: averaged weights, see extras/ema.py
PREVIOUS = re.compile(r"previous-(\d+)")
POLL_S = 0.05


class RunFolder:
    """Locks the folder of a run, and clears it of a previous run.

    The lock belongs to the process and ends with it. It also ends when any descriptor of the lock file is closed in
    this process, and it does not separate two trainers of one process: use one RunFolder per folder, and do not open
    its lock file.
    """

    def __init__(self, path: str | Path) -> None:
        self.out_dir = path  # as the user wrote it, for messages
        self.path = Path(path)
        self._lock: int | None = None  # a bare descriptor: a file object would release the lock when collected

    def claim(self, wait_s: float = 0.0) -> None:
        """Make the folder, check that it is writable, and lock it; a second call does so again if it was removed.

        wait_s: keep trying for this long while another process, which may be ending, has the lock
        Raises ConfigError if the folder cannot be written to, or is in use.
        """
        lock = self.path / LOCK
        if kind := files.kind_of(lock) or (lock.is_symlink() and "a symbolic link"):
            raise ConfigError(
                f"{lock} is {kind}, in place of the run's lock file: remove it, or choose another out_dir"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink(missing_ok=True)
            if not self._is_locked():
                descriptor = self._take_lock(wait_s)
                self.release()
                self._lock = descriptor
        except OSError as error:
            cause = error.strerror or error
            if self.path.exists() and not self.path.is_dir():
                cause = f"it is {files.kind_of(self.path) or 'a file'}"
            raise ConfigError(f"out_dir={str(self.out_dir)!r} cannot be written to: {cause}; choose another") from None

    def release(self) -> None:
        """Release the lock. The lock file stays: removing it could remove the lock of the next process."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def move_previous_run(self, needed: Iterable[Path] = ()) -> Path | None:
        """Move checkpoints and reports of a previous run into a new folder `previous-N`; return it, or None.

        needed: files that the new run needs where they are; ConfigError if one of them would be moved

        Other files stay. If the move is interrupted, the files left have either the previous run's newest checkpoint or
        none that loads, and the next call moves them to a folder of their own.
        """
        names = sorted(_files_of_a_run(self.path), key=_moving_order)
        if not names or names == [CONFIG]:  # of a run that ended before its first report; the new one replaces it
            return None
        moved = {self.path.resolve() / name for name in names}
        for file in needed:
            if moved & {file.parent.resolve() / file.name, file.resolve()}:
                raise ConfigError(
                    f"{file} is in out_dir={str(self.out_dir)!r}, which a new run clears: give this run an out_dir of "
                    "its own"
                )
        taken = [int(found[1]) for name in os.listdir(self.path) if (found := PREVIOUS.fullmatch(name))]
        target = self.path / f"previous-{1 + max(taken, default=0)}"
        try:
            target.mkdir()
            for name in names:
                _move(self.path / name, target / name, moved)
        except OSError as error:
            raise ConfigError(
                f"out_dir={str(self.out_dir)!r} holds a previous run that cannot be moved to {target}: "
                f"{error.strerror or error}; choose another out_dir, or move it yourself"
            ) from None
        log.info(f"{self.out_dir}: the previous run's files are now in {target}")
        return target

    def _is_locked(self) -> bool:
        """Return whether we hold the lock of the file that is there now."""
        if self._lock is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._lock), os.stat(self.path / LOCK))
        except FileNotFoundError:
            return False

    def _take_lock(self, wait_s: float) -> int:
        """Return the lock file's descriptor, locked, with this process's number and host written to the file."""
        deadline = time.monotonic() + wait_s
        path = self.path / LOCK
        # a link in its place is not followed
        lock = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            while not _try_to_lock(lock, path):
                if time.monotonic() >= deadline:
                    raise ConfigError(
                        f"out_dir={str(self.out_dir)!r} is in use by {_holder(lock)}: "
                        "choose another out_dir, or stop that run first"
                    )
                time.sleep(POLL_S)
            os.ftruncate(lock, 0)
            os.write(lock, f"{os.getpid()} {socket.gethostname()}\n".encode())
        except BaseException:
            os.close(lock)
            raise
        return lock


def is_own_config(path: Path) -> bool:
    """Return whether a run has written the config.yaml at `path`."""
    try:
        files.require_file(path)
        with open(path, "rb") as file:
            return file.read(len(CONFIG_MARK)) == CONFIG_MARK.encode()
    except OSError:
        return False


def is_own_folder(path: Path) -> bool:
    """Return whether the folder at `path` is a checkpoint, or the final model, of a run of this program."""
    return is_own_config(path / OPTIONS)


def keep_config(path: Path, save: Callable[[Path], None]) -> None:
    """Have `save(path)` write the options of a run, in place of a previous run's; the user's own file stays.

    Training needs no such file: if it cannot be written, a warning is logged.
    """
    if os.path.lexists(path) and not is_own_config(path):
        log.info(f"{path} is not of a run, and stays: the options of this run are in {path.parent / REPORTS[0]}")
        return
    try:
        save(path)
    except OSError as error:
        log.warning(f"{path} could not be written, the run goes on ({files.reason(error)})")


def _move(path: Path, target: Path, moved: set[Path]) -> None:
    """Rename a file. A symbolic link to a file that is not moved as well is made absolute, so that it stays valid."""
    file = Path(os.path.realpath(path))
    if path.is_symlink() and file not in moved:
        os.symlink(file, target)
        os.unlink(path)
    else:
        os.rename(path, target)


def _try_to_lock(lock: int, path: Path) -> bool:
    """Lock a file. Return False if another process has the lock. Warn if files cannot be locked here."""
    reason = "this system has no such locks"
    if fcntl is not None:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            reason = error.strerror or str(error)
    log.warning(f"{path} cannot be locked ({reason}): make sure yourself that no other run uses this folder")
    return True


def _holder(lock: int) -> str:
    """Return the process that has the lock, as it has written itself into the file."""
    found = re.fullmatch(r"(\d+) ([\w.-]+)\n", os.read(lock, 300).decode(errors="replace"))
    return f"process {found[1]} on {found[2]}" if found else "another process"


def _files_of_a_run(folder: Path) -> list[str]:
    """Return the names in a folder that a run has made."""
    with os.scandir(folder) as entries:
        return [
            entry.name
            for entry in entries
            if (entry.name in REPORTS and (entry.name != CONFIG or is_own_config(Path(entry.path))))
            or CHECKPOINT.fullmatch(entry.name)
            or (CHECKPOINT_FOLDER.fullmatch(entry.name) and entry.is_dir())
            or (OWN_FOLDER.fullmatch(entry.name) and is_own_folder(Path(entry.path)))
        ]


def _moving_order(name: str) -> tuple[bool, float, bool, str]:
    """Return a sort key: the order in which files are moved.

    First files without a number, as `ckpt.pt` may be older than the newest numbered checkpoint; then numbered ones, the
    newest last, each after its manifest; then folders, which do not load without a manifest; then the reports, which
    belong to the checkpoint that is loaded.
    """
    number = re.match(r"ckpt-(\d+)", name)
    last = math.inf if OWN_FOLDER.fullmatch(name) else 0
    return name in REPORTS, int(number[1]) if number else last, not name.endswith(".json"), name
