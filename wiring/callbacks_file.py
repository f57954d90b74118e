"""The user's own callbacks: those of a Python file, and those handed in from Python."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from core import ConfigError
from extras.event_callbacks import find_calls, has_events
from wiring.user_file import user_module

if TYPE_CHECKING:
    from config.options import Options

WANTED = "wanted a class with a method such as on_step_end or on_epoch_end"


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
    with user_module(path, "callbacks_file", "a Python file with callbacks") as module:
        found = _listed(path, module)
        found = [_instance(path, kind) for kind in _classes(module)] if found is None else found
        if not found:
            raise ConfigError(f"{path}: it defines no callback: {WANTED}, or a list `callbacks = [...]` of instances")
    return found


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
    own = [kind for kind in dict.fromkeys(named) if kind.__module__ == module.__name__ and kind.__name__[:1] != "_"]
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
