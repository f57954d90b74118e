"""The folder of one run: made, writable, used by one trainer at a time, and cleared of a former run."""

import errno
import logging
import os
import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from core.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("coregpt")
LOCK = ".lock"
CHECKPOINT = re.compile(r"ckpt.*\.(pt|json)(\.part)?|ckpt\.pt\.foreign.*")
CHECKPOINT_FOLDER = re.compile(r"ckpt-.*")
REPORTS = ("metrics.jsonl", "wandb")
ASIDE = re.compile(r"previous-(\d+)")
POLL_S = 0.05


class RunFolder:
    """Claims the folder of a run for one trainer at a time, and clears it of a former run.

    The lock belongs to the process and dies with it. It ends as well when any descriptor of the lock file is closed in
    this process, and it does not keep two trainers of one process apart: have one RunFolder per folder, and leave its
    lock file alone.
    """

    def __init__(self, path: str | Path) -> None:
        self.out_dir = path  # as the user wrote it, for messages
        self.path = Path(path)
        self._lock: int | None = None  # a bare descriptor: a file object would give the lock up when forgotten

    def claim(self, wait_s: float = 0.0) -> None:
        """Make the folder, see that it can be written to, and lock it; again, if somebody removed it since.

        wait_s: keep trying that long while another process has it, as one that is dying may
        Raises ConfigError when the folder cannot be written to, or is in use.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink(missing_ok=True)
            if not self._is_locked():
                lock = self._take_lock(wait_s)
                self.release()
                self._lock = lock
        except OSError as error:
            raise ConfigError(
                f"out_dir={str(self.out_dir)!r} cannot be written to: {error.strerror or error}; choose another"
            ) from None

    def release(self) -> None:
        """Give the folder up. The lock file stays: removing it could take away the lock of whoever comes next."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def set_aside_former_run(self, needed: Iterable[Path] = ()) -> Path | None:
        """Move checkpoints and reports of a former run into a new folder `previous-N`; return it, or None.

        needed: files that the new run goes on needing where they are; ConfigError if one of them would be moved

        Other files stay. If the move is cut short, what is left has either the former run's newest checkpoint or none
        that loads, and the next call moves it to a folder of its own.
        """
        names = sorted(_former_run(self.path), key=_turn)
        if not names:
            return None
        moved = {self.path.resolve() / name for name in names}
        for file in needed:
            if moved & {file.parent.resolve() / file.name, file.resolve()}:
                raise ConfigError(
                    f"{file} is of out_dir={str(self.out_dir)!r}, which a new run clears: give this run an out_dir of "
                    "its own"
                )
        taken = [int(found[1]) for name in os.listdir(self.path) if (found := ASIDE.fullmatch(name))]
        aside = self.path / f"previous-{1 + max(taken, default=0)}"
        try:
            aside.mkdir()
            for name in names:
                os.rename(self.path / name, aside / name)
        except OSError as error:
            raise ConfigError(
                f"out_dir={str(self.out_dir)!r} holds a former run that cannot be moved to {aside}: "
                f"{error.strerror or error}; choose another out_dir, or move it yourself"
            ) from None
        log.info(f"{self.out_dir}: the former run's files are now in {aside}")
        return aside

    def _is_locked(self) -> bool:
        """Tell whether the lock we hold is on the file that is there now."""
        if self._lock is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._lock), os.stat(self.path / LOCK))
        except FileNotFoundError:
            return False

    def _take_lock(self, wait_s: float) -> int:
        """Return the lock file's descriptor, locked, with this process's number and host in the file."""
        deadline = time.monotonic() + wait_s
        path = self.path / LOCK
        # what a link in its place points to must not be written to
        lock = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            while not _locked(lock, path):
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


def _locked(lock: int, path: Path) -> bool:
    """Lock a file; False when another process has it. Where files cannot be locked, say so and do without."""
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
    """Name the process that has the lock, as far as it has written down who it is."""
    found = re.fullmatch(r"(\d+) ([\w.-]+)\n", os.read(lock, 300).decode(errors="replace"))
    return f"process {found[1]} on {found[2]}" if found else "another process"


def _former_run(folder: Path) -> list[str]:
    """Return the names in a folder that a run makes."""
    with os.scandir(folder) as entries:
        return [
            entry.name
            for entry in entries
            if entry.name in REPORTS
            or CHECKPOINT.fullmatch(entry.name)
            or (CHECKPOINT_FOLDER.fullmatch(entry.name) and entry.is_dir())
        ]


def _turn(name: str) -> tuple[bool, int, bool, str]:
    """Return when a name's turn to be moved comes.

    First those without a number, as `ckpt.pt` may be older than the newest numbered checkpoint; then these, the newest
    last, each behind its manifest; then the reports, which belong to what is loaded.
    """
    number = re.match(r"ckpt-(\d+)", name)
    return name in REPORTS, int(number[1]) if number else 0, not name.endswith(".json"), name
