"""Reads and writes the meta.pkl of a data set, nanoGPT's dict of vocab_size, stoi and itos."""

import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataError
from core.files import require_file, write_bytes_atomically


def read_meta(path: str | Path) -> dict[str, Any]:
    """Return the content of meta.pkl, plain data only: the file cannot call a function or import a module.

    Raises DataError for a file that is missing, damaged, not plain data, or without a valid vocab_size.
    """
    path = Path(path)
    try:
        require_file(path)
        meta = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}): {_remedy(path)}") from error
    except Exception as error:  # a damaged pickle can fail with nearly any exception, even MemoryError
        raise DataError(f"{path} is damaged or not plain data ({error}): {_remedy(path)}") from error
    if not isinstance(meta, dict):
        raise DataError(f"{path} holds a {type(meta).__name__}, wanted a dict: {_remedy(path)}")
    meta = {key: str(value) if isinstance(value, _ScalarType) else value for key, value in meta.items()}
    size = meta.get("vocab_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        got = f"vocab_size is {size!r}" if "vocab_size" in meta else "no vocab_size"
        raise DataError(f"{path}: {got}, wanted a whole number of 1 or more: {_remedy(path)}")
    return meta


def write_meta(path: str | Path, meta: Mapping[str, Any]) -> None:
    """Write meta.pkl atomically."""
    content = pickle.dumps(dict(meta), protocol=4)  # every Python since 3.4 reads it, and each writes the same bytes
    try:
        write_bytes_atomically(Path(path), content)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror or error})") from error


def _remedy(path: Path) -> str:
    """Return the command that makes the file again."""
    for script in (path.parent / "prepare.py", path.parent / "prepare_streaming.py"):
        if script.exists():
            return f"run `python {script}` again"
    return f"make it again, for instance with `python data/text/prepare.py FILE --name {path.parent.name}`"


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that refuses every global except subclasses of dict and numpy scalars.

    A pickle can set attributes on the classes that it names. So it gets built-in or temporary substitutes even for the
    allowed ones, and the result consists of dict, int, float and str.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("collections", "OrderedDict"), ("collections", "Counter")}:
            return dict
        if (module, name) == ("numpy", "dtype"):
            return lambda code, *_: _ScalarType(code)
        if module == "numpy" and re.fullmatch(r"u?int(8|16|32|64)", name):  # a class, such as `"dtype": np.uint32`
            return _ScalarType(np.dtype(name).str[1:])
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name == "scalar":
            return lambda kind, raw: kind.value(raw)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a vocabulary does not need")


class _ScalarType:
    """The part of numpy.dtype that a pickled number or string needs; `str` returns its code, such as <u4."""

    def __init__(self, code: str) -> None:
        if not re.fullmatch(r"b1|[iuf][1248]|U[0-9]{1,3}", code):
            raise pickle.UnpicklingError(f"it holds a numpy value of type {code!r}, not a number or string")
        self._code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in {"<", ">", "=", "|"}:
            raise pickle.UnpicklingError(f"it holds a numpy value of byte order {order!r}")
        self._code = order.strip("|") + self._code

    def __str__(self) -> str:
        return self._code

    def value(self, raw: bytes) -> Any:
        (value,) = np.frombuffer(raw, dtype=self._code).tolist()
        return value
