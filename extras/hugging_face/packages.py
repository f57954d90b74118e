"""The transformers package, imported where it is needed."""

import sys
from typing import Any

from core.commands import install_command
from core.errors import ConfigError


def import_transformers() -> Any:
    """Return the package, which takes seconds. Raises ConfigError without it. No progress bars but on a terminal."""
    try:
        import transformers
    except ImportError:
        raise ConfigError(f"models of Hugging Face need the transformers package: {install_command('hf')}") from None
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    return transformers
