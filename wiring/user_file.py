"""Python files of the user's: run with their own folder first among the imports."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from config import spelling
from core import ConfigError
from core.files import kind_of

NEAR = 3  # edits between the names of two files, at which one may be meant by the other


@contextmanager
def user_module(path: Path, option: str, wanted: str) -> Iterator[ModuleType]:
    """Run a Python file, and yield what it defines. Inside, imports find the file's folder first.

    option: that names the file; wanted: what the file should hold, for messages

    Afterwards the folder is the last place where imports look, for those in functions. Raises ConfigError if the file
    cannot be read, or for an error in it or in what is done inside; the message has the line of the user's file.
    """
    source = _read(path, option, wanted)
    folder = path.resolve().parent
    module = ModuleType(f"_{option}")  # a private name
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look for it there
    try:
        with _own_folder_first(folder):
            exec(compile(source, str(path), "exec"), vars(module))
            yield module
    except (Exception, SystemExit) as error:
        if isinstance(error, ConfigError) and str(error).startswith(f"{path}: "):
            raise
        text = error.msg if isinstance(error, SyntaxError) else error
        kind = type(error).__name__
        raise ConfigError(
            f"{place_in(error, path)}: running it fails with {kind}: {text}; mend it, or remove {option}"
        ) from None
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _read(path: Path, option: str, wanted: str) -> bytes:
    if kind := kind_of(path):
        raise ConfigError(f"{option}={path}: it is {kind}, wanted {wanted}, or None")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        names = [other.name for other in path.parent.glob("*.py")]
        edits, near = spelling.nearest(path.name, names)
        hint = f"; did you mean {path.parent / near[0]}?" if edits <= NEAR else ""
        raise ConfigError(f"{option}={path}: there is no such file, wanted {wanted}, or None{hint}") from None
    except OSError as error:
        raise ConfigError(f"{option}={path}: it cannot be read ({error.strerror}): mend that") from None


@contextmanager
def _own_folder_first(folder: Path) -> Iterator[None]:
    """Inside, imports look into a folder first, also for a name that a module of this program has; then as before."""
    own = {file.stem for file in folder.glob("*.py")} | {file.parent.name for file in folder.glob("*/__init__.py")}
    hidden = {name: module for name, module in sys.modules.items() if _hides(name, module, own, folder)}
    for name in hidden:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] in {key.split(".")[0] for key in hidden}]:
            del sys.modules[name]
        sys.modules.update(hidden)


def _hides(name: str, module: ModuleType, own: set[str], folder: Path) -> bool:
    """Return whether a loaded module hides one of a folder: neither installed nor the standard library's."""
    top = name.split(".")[0]
    if top not in own or top in sys.stdlib_module_names or top == "__main__":
        return False
    file = getattr(module, "__file__", None)
    return bool(file) and "site-packages" not in str(file) and folder not in Path(str(file)).resolve().parents


def place_in(error: BaseException, path: Path) -> str:
    """Return file and line of an error: the innermost place in the file, or in a module of its folder."""
    folder = path.resolve().parent
    if isinstance(error, SyntaxError):
        return f"{error.filename or path}:{error.lineno}" if error.lineno else str(path)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(path) or folder in Path(frame.filename).resolve().parents]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else str(path)
