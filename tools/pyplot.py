"""Imports matplotlib, which is optional."""

from typing import Any

from core.commands import install_command
from core.errors import ConfigError


def load_pyplot() -> Any:
    """Return matplotlib.pyplot with the backend that draws into files. Raises ConfigError without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise ConfigError(f"drawing needs matplotlib: {install_command('report')}") from None
    return pyplot
