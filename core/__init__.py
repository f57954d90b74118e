"""The parts of the training loop. They import torch and the standard library, and nothing else of ours.

Its names are those of `names.py`, which is imported when the first of them is used: `core.errors` alone does not need
torch, so that help and messages about options do not wait for it.
"""

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.names import *  # noqa: F403

if sys.argv[0].endswith(("train.py", "sample.py")):  # what these need is looked for before anything imports it
    from core.errors import require_packages

    require_packages("torch", "numpy", "pydantic", "yaml")


def __getattr__(name: str) -> Any:
    if importlib.util.find_spec(f"{__name__}.{name}"):  # `from core import files`
        return importlib.import_module(f"{__name__}.{name}")
    if name == "__all__" or not name.startswith("__"):
        names = importlib.import_module(f"{__name__}.names")
        globals().update({exported: getattr(names, exported) for exported in ("__all__", *names.__all__)})
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]
