"""matplotlib, where it is installed."""

from typing import Any

from core.errors import ConfigError


def load_pyplot() -> Any:
    """Return matplotlib.pyplot, drawing into files alone. Raises ConfigError where matplotlib is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise ConfigError("drawing needs matplotlib: pip install -e '.[report]'") from None
    return pyplot
