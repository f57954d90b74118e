"""The meta.pkl of a data set, nanoGPT's dict of vocab_size, stoi and itos: read without trusting it."""

import io
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataError


def read_meta(path: str | Path) -> dict[str, Any]:
    """Read meta.pkl as plain data: nothing in the file can call a function or import a module."""
    path = Path(path)
    try:
        meta = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}): {_remedy(path)}") from error
    except Exception as error:  # a damaged pickle can fail with nearly any exception, even MemoryError
        raise DataError(f"{path} is damaged or not plain data ({error}): {_remedy(path)}") from error
    if not isinstance(meta, dict):
        raise DataError(f"{path} holds a {type(meta).__name__}, wanted a dict: {_remedy(path)}")
    size = meta.get("vocab_size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        got = f"vocab_size is {size!r}" if "vocab_size" in meta else "no vocab_size"
        raise DataError(f"{path}: {got}, wanted a whole number of 1 or more: {_remedy(path)}")
    return meta


def write_meta(path: str | Path, meta: Mapping[str, Any]) -> None:
    """Write meta.pkl in one step: the file is the old one or the new one, never a part of it."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        # protocol 4 is read by every Python since 3.4, and gives the same bytes under each
        part.write_bytes(pickle.dumps(dict(meta), protocol=4))
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror or error})") from error
    finally:
        part.unlink(missing_ok=True)


def _remedy(path: Path) -> str:
    for script in (path.parent / "prepare.py", path.parent / "prepare_streaming.py"):
        if script.exists():
            return f"run `python {script}` again"
    return f"make it again, for instance with `python data/text/prepare.py FILE --name {path.parent.name}`"


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler for which every global is refused, but for dict's relatives and numpy's scalars.

    Even these are not handed out: a pickle can set attributes on what it names, so it gets built-in or
    throw-away stand-ins, and what comes out is made of dict, int, float and str.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("collections", "OrderedDict"), ("collections", "Counter")}:
            return dict
        if (module, name) == ("numpy", "dtype"):
            return lambda code, *_: _ScalarType(code)
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name == "scalar":
            return lambda kind, raw: kind.value(raw)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a vocabulary does not need")


class _ScalarType:
    """The little of numpy.dtype that a pickled number or string needs."""

    def __init__(self, code: str) -> None:
        if not re.fullmatch(r"b1|[iuf][1248]|U[0-9]{1,3}", code):
            raise pickle.UnpicklingError(f"it holds a numpy value of type {code!r}, not a number or string")
        self._code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in {"<", ">", "=", "|"}:
            raise pickle.UnpicklingError(f"it holds a numpy value of byte order {order!r}")
        self._code = order.strip("|") + self._code

    def value(self, raw: bytes) -> Any:
        (value,) = np.frombuffer(raw, dtype=self._code).tolist()
        return value
