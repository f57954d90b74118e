"""Packages of Hugging Face, imported where they are needed, and the first line of their errors."""

import sys
from typing import Any

from core.commands import install_command
from core.errors import ConfigError


def import_bitsandbytes() -> Any:
    """Return the bitsandbytes package. Raises ConfigError without it."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(
            f"quantization needs the bitsandbytes package ({error}): {install_command('bitsandbytes')}"
        ) from None
    return bitsandbytes


def import_transformers() -> Any:
    """Return the package, which takes seconds. Raises ConfigError without it. No progress bars but on a terminal."""
    try:
        import transformers
    except ImportError:
        raise ConfigError(f"models of Hugging Face need the transformers package: {install_command('hf')}") from None
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    return transformers


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or the name of its class, for a message of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
