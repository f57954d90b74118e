"""What a tool makes: folders that replace an earlier one, and errors of writing."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import ConfigError
from core.files import reason

MARK = "exported-by-coregpt.txt"  # a folder with this file is replaced


@contextmanager
def refuse_unwritable(option: str, path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn errors of writing to `path`, the value of `option`, into a ConfigError.

    errors: which, in addition to OSError
    """
    caught: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except caught as error:
        raise ConfigError(f"{option}={path} cannot be written ({reason(error)}): choose another place") from None


def require_room(folder: Path) -> None:
    """Raise ConfigError if a folder holds files, and they are not what a tool has made earlier."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out={folder} is a file: choose a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise ConfigError(f"--out={folder} holds other files: choose a new folder")


def replace_folder(target: Path, source: Path, write: Callable[[Path], None]) -> Path:
    """Have `write(path)` fill a new folder, which then replaces what an earlier call has made; return `target`.

    source: what it is made of, named in a file of the folder
    """
    with refuse_unwritable("--out", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as new:
            write(Path(new))
            Path(new, MARK).write_text(f"written by coregpt from {source}\n", encoding="utf-8")
            if target.is_dir():
                shutil.rmtree(target)
            shutil.copytree(new, target)
    return target
