"""Operations on disk after which a crash leaves either the old or the new content, complete."""

import argparse
import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from core.errors import CheckpointError

CHUNK_BYTES = 2**20
PATH_BYTES, NAME_BYTES = 4000, 255  # what file systems take, with room for the names of our files
OPEN_FILES = ("/dev/fd/", "/dev/stdin", "/dev/null", "/proc/self/fd/")
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
PARTIAL = ".part"  # suffix of a temporary file
FULL = (errno.ENOSPC, errno.EDQUOT)
FAILURES = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.ENOENT,
)  # the disk failed; other errors mean that the file system cannot do it


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durable after a power cut."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    os.makedirs(folder, exist_ok=True)
    for place in missing:
        flush_folder(place.parent)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file or folder to a temporary path, flush it to disk, and rename it to `path`; an old file is replaced.

    write: gets the temporary path, `path` + PARTIAL. If it raises, the temporary file is removed and the error goes on

    After a power cut `path` is the old or the new file, complete; `flush_folder` makes sure that it is the new one.
    """
    part = path.with_name(path.name + PARTIAL)
    try:
        remove(part)
        write(part)
        for content in _contents(part):
            _flush(content)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            remove(part)
        raise


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file, flush it to disk, and rename it to `path`; see `write_atomically`."""

    def write(part: Path) -> None:
        part.write_bytes(content)

    write_atomically(path, write)


def link(source: Path, target: Path) -> None:
    """Make `target` a second name of the file `source`, in one step; a copy if the file system has no hard links."""
    part = target.with_name(target.name + PARTIAL)
    try:
        remove(part)
        try:
            os.link(source, part)
        except OSError as error:
            if error.errno in FAILURES:
                raise
            shutil.copyfile(source, part)
            _flush(part)
        os.replace(part, target)
        remove(part)  # if both were names of one file already, the rename does nothing
    except BaseException:
        with suppress(OSError):
            remove(part)
        raise


def move_away(path: Path, ending: str) -> Path:
    """Rename a file to the first free name of `path.ending`, `path.ending-2` ..., and return that."""
    target, number = path.with_name(path.name + ending), 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"{path.name}{ending}-{number}")
    os.rename(path, target)
    return target


def flush_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk. Raises OSError if the disk fails, not if the system cannot flush."""
    try:
        _flush(folder)
    except OSError as error:
        if error.errno in FAILURES:
            raise


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists."""
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            os.unlink(path)


def sha256(path: Path) -> str:
    """Return the hash of a file's content; of a folder, of its names, sizes and contents in the order of names.

    Raises CheckpointError for anything else, and for a folder that holds anything else, such as a link.
    """
    digest = hashlib.sha256()
    for part in _contents(path):
        if part.is_symlink() or not (part.is_file() or part.is_dir()):
            raise CheckpointError(f"{part.name} is a link, or something else that is neither file nor folder")
        if part != path:
            length = "" if part.is_dir() else part.stat().st_size
            digest.update(os.fsencode(f"{part.relative_to(path).as_posix()}\0{length}\0"))
        if part.is_file():
            with open(part, "rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
    return digest.hexdigest()


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return sum(part.lstat().st_size for part in _contents(path) if not part.is_dir())


def path_argument(text: str) -> Path:
    """Return the path that an argument of a program is, for argparse's `type`; a name must fit into a file system."""
    if re.match(r"[a-z]\w+://", text):
        raise argparse.ArgumentTypeError(f"got {text[:200]}, wanted a path on this machine, no URL")
    if len(os.fsencode(text)) > PATH_BYTES or any(len(os.fsencode(name)) > NAME_BYTES for name in text.split("/")):
        got = f"{text[:40]}... ({len(text):,} characters)"
        raise argparse.ArgumentTypeError(
            f"got {got}, wanted a path of at most {PATH_BYTES} bytes, with names of at most {NAME_BYTES}"
        )
    return Path(text)


def kind_of(path: Path) -> str | None:
    """Return what is at a path in place of a regular file, for a message; None for a file, and if nothing is there."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"a symbolic link to {os.readlink(path)}, where there is no file"
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    if stat.S_ISREG(mode):
        return None
    return next((kind for is_kind, kind in kinds if is_kind(mode)), "a device")


def require_file(path: Path) -> None:
    """Raise OSError for anything but a regular file, where there is something: a pipe can block, a device be endless.

    An open file of this process, such as that of `program <(command)`, may be a pipe.
    """
    kind = kind_of(path)
    if kind and not str(path).startswith(OPEN_FILES):
        raise OSError(errno.EINVAL, f"it is {kind}")


def reason(error: Exception) -> str:
    """Return why an operation failed, in one line and without the name of the file: that differs from save to save."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def room_left(error: Exception, folder: Path) -> str:
    """Return `: only ... are free` with the room on the disk of a folder if it was full; else an empty text."""
    if not isinstance(error, OSError) or error.errno not in FULL:
        return ""
    try:
        disk = os.statvfs(folder)
    except (AttributeError, OSError):  # Windows; the folder is gone
        return ""
    files_left = ", but no more files can be added" if disk.f_files and not disk.f_favail else ""
    return f": only {size_text(disk.f_bavail * disk.f_frsize)} are free{files_left}"


def require_growth(path: Path, count: int = CHUNK_BYTES) -> None:
    """Raise OSError, with the system's reason, if `count` bytes cannot be appended to a file; else append zeros."""
    with open(path, "ab") as file:
        file.write(bytes(count))


def size_text(count: int) -> str:
    """Return a number of bytes for a message, such as 1.5 GiB."""
    unit = min(max(count.bit_length() - 1, 0) // 10, len(UNITS) - 1)
    tenths = count * 10 // 2 ** (10 * unit)
    return f"{tenths // 10:,}.{tenths % 10} {UNITS[unit]}" if unit else f"{count} bytes"


def stamp(path: Path) -> tuple[int, ...] | None:
    """Return values that change when a file is replaced or written to; None if there is no file."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def same(one: Path, other: Path) -> bool:
    """Return whether two names are of one file."""
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except OSError:
        return False


def _contents(path: Path) -> Iterator[Path]:
    """Yield a file, or everything in a folder and then the folder."""
    if path.is_dir() and not path.is_symlink():
        yield from sorted(path.rglob("*"))
    yield path


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
