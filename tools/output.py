"""Errors of writing what a tool makes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import ConfigError
from core.files import reason


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
