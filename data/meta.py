"""Reads and writes the meta.pkl of a data set, nanoGPT's dict of vocab_size, stoi and itos."""

import io
import pickle
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from core.commands import command
from core.errors import DataError
from core.files import require_file, write_bytes_atomically
from data.meta_contents import MODEL_FILES, find_vocab_size
from data.prepare_scripts import STREAM, prepare_command

SIZES = ("n_vocab", "vocabulary_size", "num_tokens")  # other names of vocab_size


def read_meta(path: str | Path) -> dict[str, Any]:
    """Return the content of meta.pkl, plain data only: the file cannot call a function or import a module.

    An object of a tokenizer package becomes a dict of its `class` and `state`. A missing vocab_size is counted in the
    tables, or is that of the tokenizer that the file names. The path of a SentencePiece model next to the file becomes
    absolute. Raises DataError for a file that is missing, damaged, not plain data, or has no valid vocab_size.
    """
    path = Path(path)
    try:
        require_file(path)
        meta = _as_plain_data(_PlainUnpickler(io.BytesIO(path.read_bytes())).load(), {})
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}): {_remedy(path)}") from error
    except _UnknownGlobal as error:
        raise DataError(
            f"{path} is damaged or not plain data ({error}): save a dict of vocab_size, stoi and itos there"
        ) from error
    except Exception as error:  # a damaged pickle can fail with nearly any exception, even MemoryError
        reason = str(error) if isinstance(error, pickle.UnpicklingError | EOFError) else type(error).__name__
        raise DataError(f"{path} is damaged or not plain data ({reason}): {_remedy(path)}") from error
    if not isinstance(meta, dict):
        raise DataError(f"{path} holds a {type(meta).__name__}, wanted a dict: {_remedy(path)}")
    if "vocab_size" not in meta and (counted := _vocab_size(meta)):
        meta["vocab_size"] = counted
    size = meta.get("vocab_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        got = f"vocab_size is {reprlib.repr(size)}" if "vocab_size" in meta else "no vocab_size"
        raise DataError(f"{path}: {got}, wanted a whole number of 1 or more: {_remedy(path)}")
    return _with_found_files(meta, path.parent)


def write_meta(path: str | Path, meta: Mapping[str, Any]) -> None:
    """Write meta.pkl atomically."""
    content = pickle.dumps(dict(meta), protocol=4)  # every Python since 3.4 reads it, and each writes the same bytes
    try:
        write_bytes_atomically(Path(path), content)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror or error})") from error


def _remedy(path: Path) -> str:
    """Return the command that makes the file again."""
    if prepare := prepare_command(path.parent) or prepare_command(path.parent, STREAM):
        return f"run `{prepare}` again"
    return f"make it again, for instance with `{command('data/text/prepare.py')} FILE --name {path.parent.name}`"


def _vocab_size(meta: Mapping[str, Any]) -> Any:
    """Return the number of ids under another name, or counted; None if there is nothing to count."""
    return next((meta[name] for name in SIZES if name in meta), None) or find_vocab_size(meta)


def _with_found_files(meta: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the content, with the absolute path of a model file that is in the folder, or was moved there."""
    for key in MODEL_FILES:
        value = meta.get(key)
        if isinstance(value, str) and value.endswith(".model") and not Path(value).is_file():
            found = [file for file in (folder / value, folder / PureWindowsPath(value).name) if file.is_file()]
            meta[key] = str(found[0].resolve()) if found else value
    return meta


class _UnknownGlobal(pickle.UnpicklingError):
    """A pickle needs a class or function that is no plain data."""


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that refuses every global except those of plain data, numpy's arrays and tokenizer packages.

    A pickle can set attributes on the classes that it names, and call them. So it gets built-in or temporary
    substitutes even for the allowed ones, and no code of a package runs.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in {"collections", "builtins", "__builtin__", "_codecs", "datetime", "pathlib", "pathlib._local"}:
            if name in _PLAIN:
                return _PLAIN[name]()
        elif module == "numpy" and name in {"dtype", "ndarray"}:
            return lambda code, *_: _ScalarType(code)
        elif module == "numpy" and re.fullmatch(r"u?int(8|16|32|64)", name):  # a class, such as `"dtype": np.uint32`
            return _ScalarType(np.dtype(name).str[1:])
        elif module.startswith(("numpy.core.", "numpy._core.")) and name in _NUMPY:
            return _NUMPY[name]()
        elif module.split(".")[0] in _PACKAGES:
            return type(name, (_Foreign,), {"name": f"{module}.{name}"})
        raise _UnknownGlobal(f"it asks for {module}.{name}, which a vocabulary does not need")


class _ScalarType:
    """The part of numpy.dtype that pickled numbers or strings need; `str` returns its code, such as <u4."""

    def __init__(self, code: str) -> None:
        if not re.fullmatch(r"b1|[iuf][1248]|[US][0-9]{1,3}|O[48]", code):
            raise pickle.UnpicklingError(f"it holds a numpy value of type {code!r}, not a number or string")
        self._code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in {"<", ">", "=", "|"}:
            raise pickle.UnpicklingError(f"it holds a numpy value of byte order {order!r}")
        self._code = order.strip("|") + self._code

    def __str__(self) -> str:
        if "O" in self._code:  # numpy's own unpickling would return any object
            raise pickle.UnpicklingError(f"it holds a numpy value of type {self._code!r}, not a number or string")
        return self._code

    def value(self, raw: bytes) -> Any:
        (value,) = np.frombuffer(raw, dtype=str(self)).tolist()
        return value


class _Array:
    """The content of a pickled numpy array, as nested lists."""

    def __init__(self, *_: Any) -> None:
        self.items: Any = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, kind, by_column, raw = state[-4:]
        assert isinstance(kind, _ScalarType)
        if isinstance(raw, list):  # of Python objects
            self.items = raw
        else:
            self.items = np.frombuffer(raw, str(kind)).reshape(shape, order="F" if by_column else "C").tolist()

    @classmethod
    def of_buffer(cls, raw: bytes, kind: _ScalarType, shape: tuple[int, ...], order: str) -> "_Array":
        array = cls()
        array.__setstate__((shape, kind, order == "F", raw))
        return array


class _Foreign:
    """An object of a tokenizer package, of which only the name of its class and its state are kept."""

    name = ""

    def __new__(cls, *_: Any, **__: Any) -> "_Foreign":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


_PACKAGES = {"tiktoken", "sentencepiece", "tokenizers", "transformers"}
_PLAIN: dict[str, Callable[[], Any]] = {  # name of a global: returns its substitute
    **dict.fromkeys(("OrderedDict", "Counter"), lambda: dict),
    **dict.fromkeys(("set", "frozenset"), lambda: set),
    **dict.fromkeys(("int", "long", "float", "str", "list", "dict"), lambda: None),  # what a defaultdict makes
    **dict.fromkeys(("date", "datetime", "timedelta", "timezone"), lambda: lambda *_: None),
    **dict.fromkeys(("Path", "PosixPath", "PurePosixPath"), lambda: lambda *parts: str(PurePosixPath(*parts))),
    **dict.fromkeys(("WindowsPath", "PureWindowsPath"), lambda: lambda *parts: str(PureWindowsPath(*parts))),
    "defaultdict": lambda: lambda *_: {},
    "deque": lambda: lambda *_: [],
    "encode": lambda: lambda text, _: text.encode("latin-1"),  # bytes, in the oldest protocols
    "bytearray": lambda: lambda text=b"", *_: text.encode("latin-1") if isinstance(text, str) else bytes(b"" + text),
    "bytes": lambda: lambda: b"",
}
_NUMPY: dict[str, Callable[[], Any]] = {
    "scalar": lambda: lambda kind, raw: kind.value(raw),
    "_reconstruct": lambda: lambda *_: _Array(),
    "_frombuffer": lambda: lambda *parts: _Array.of_buffer(*parts),
}


def _as_plain_data(value: Any, known: dict[int, Any]) -> Any:
    """Return a value with lists for arrays, and text or dicts for objects. known: what was made of values before"""
    if id(value) in known:  # a small file can refer to one list from very many places
        return known[id(value)]
    plain = value
    if isinstance(value, dict):
        plain = {_as_plain_data(key, known): _as_plain_data(item, known) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        plain = type(value)(_as_plain_data(item, known) for item in value)
    elif isinstance(value, set | frozenset):
        plain = {_as_plain_data(item, known) for item in value}
    elif isinstance(value, _Array):
        plain = _as_plain_data(value.items, known)
    elif isinstance(value, _Foreign):
        plain = {"class": value.name, "state": _as_plain_data(value.state, known)}
    elif isinstance(value, type) and issubclass(value, _Foreign):
        plain = value.name
    elif isinstance(value, _ScalarType):
        plain = str(value)
    elif isinstance(value, bytearray):
        plain = bytes(value)
    elif not isinstance(value, bool | int | float | complex | str | bytes | None):
        raise pickle.UnpicklingError(f"it holds a {type(value).__name__}, which is no plain data")
    if isinstance(plain, dict | list | tuple | set):
        known[id(value)] = plain
    return plain
