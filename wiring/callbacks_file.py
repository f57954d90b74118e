"""The user's own callbacks: those of a Python file, and those handed in from Python."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from config import spelling
from core import ConfigError
from core.files import kind_of
from extras.event_callbacks import find_calls, has_events

if TYPE_CHECKING:
    from config.options import Options

MODULE = "_callbacks_file"  # its name among the modules
WANTED = "wanted a class with a method such as on_step_end or on_epoch_end"
NEAR = 3  # edits between the names of two files, at which one may be meant by the other


def user_callbacks(options: Options, callbacks: Sequence[Any] = ()) -> list[Any]:
    """Return the callbacks of `callbacks_file`, then those handed in: objects with event methods, ours or the C line's.

    Raises ConfigError for an object that is no callback, and for a file that gives none.
    """
    if not isinstance(callbacks, Sequence):
        raise ConfigError(f"callbacks: got {type(callbacks).__name__} alone, wanted a list of them: callbacks=[...]")
    found = load_callbacks(Path(options.callbacks_file)) if options.callbacks_file else []
    for number, callback in enumerate(callbacks):
        _require_callback(callback, f"callbacks[{number}]")
    return [*found, *callbacks]


def load_callbacks(path: Path) -> list[Any]:
    """Return the callbacks that a Python file defines, in its order.

    These are the instances in its list `callbacks`, if there is one; else an instance of each class that is defined in
    the file and has event methods. Abstract classes, and those whose name begins with `_`, are left out.

    Imports in the file find its own folder first, and those in its methods find it as well. Raises ConfigError if the
    file cannot be read or run, defines no callback, or if a class needs arguments.
    """
    source = _read(path)
    folder = path.resolve().parent
    module = ModuleType(MODULE)
    module.__file__ = str(path)
    sys.modules[MODULE] = module  # dataclasses look for it there
    try:
        with _own_folder_first(folder):
            exec(compile(source, str(path), "exec"), vars(module))
            found = _listed(path, module)
            found = [_instance(path, kind) for kind in _classes(module)] if found is None else found
    except (Exception, SystemExit) as error:
        if isinstance(error, ConfigError) and str(error).startswith(f"{path}: "):
            raise
        text = error.msg if isinstance(error, SyntaxError) else error
        raise ConfigError(
            f"{_place(error, path, folder)}: running it fails with {type(error).__name__}: {text}; mend it, or remove "
            "callbacks_file"
        ) from None
    if not found:
        raise ConfigError(f"{path}: it defines no callback: {WANTED}, or a list `callbacks = [...]` of instances")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # for imports in methods
    return found


def _read(path: Path) -> bytes:
    if kind := kind_of(path):
        raise ConfigError(f"callbacks_file={path}: it is {kind}, wanted a Python file with callbacks, or None")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        names = [other.name for other in path.parent.glob("*.py")]
        edits, near = spelling.nearest(path.name, names)
        hint = f"; did you mean {path.parent / near[0]}?" if edits <= NEAR else ""
        raise ConfigError(
            f"callbacks_file={path}: there is no such file, wanted a Python file with callbacks, or None{hint}"
        ) from None
    except OSError as error:
        raise ConfigError(f"callbacks_file={path}: it cannot be read ({error.strerror}): mend that") from None


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


def _listed(path: Path, module: ModuleType) -> list[Any] | None:
    """Return the instances in the file's list `callbacks`; None without one."""
    listed = vars(module).get("callbacks")
    if not isinstance(listed, list | tuple):
        return None
    for number, callback in enumerate(listed):
        _require_callback(callback, f"{path}: callbacks[{number}]")
    return list(listed)


def _classes(module: ModuleType) -> list[type]:
    """Return the classes that are defined in the file and have events, in its order."""
    named = [value for name, value in vars(module).items() if isinstance(value, type) and name[:1] != "_"]
    own = [kind for kind in dict.fromkeys(named) if kind.__module__ == MODULE and kind.__name__[:1] != "_"]
    return [kind for kind in own if has_events(kind) and not inspect.isabstract(kind)]


def _instance(path: Path, kind: type) -> Any:
    name = kind.__name__
    try:
        inspect.signature(kind).bind()
    except TypeError:
        raise ConfigError(
            f"{path}: {name} needs arguments, {name}{inspect.signature(kind)}: give them default values, or end the "
            f"file with a list of instances, `callbacks = [{name}(...)]`"
        ) from None
    except ValueError:  # its signature is not known
        pass
    callback = kind()
    _require_callback(callback, f"{path}: {name}")
    return callback


def _require_callback(callback: Any, where: str) -> None:
    """Raise ConfigError for an object that no event can be given to. where: what the message calls it"""
    if isinstance(callback, type):
        raise ConfigError(f"{where} is the class {callback.__name__}: wanted an instance of it, {callback.__name__}()")
    if not has_events(callback):
        raise ConfigError(f"{where} is a {type(callback).__name__} without events: {WANTED}")
    try:
        find_calls(callback)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _place(error: BaseException, path: Path, folder: Path) -> str:
    """Return file and line of an error: the innermost place in the file, or in a module of its folder."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or path}:{error.lineno}" if error.lineno else str(path)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(path) or folder in Path(frame.filename).resolve().parents]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else str(path)
