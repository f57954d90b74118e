"""The parts of the training loop. They import torch and the standard library, and nothing else of ours.

Its names are those of `names.py`, which is imported when the first of them is used: `core.errors` alone does not need
torch, so that help and messages about options do not wait for it.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.names import *  # noqa: F403

if sys.argv[0].endswith(("train.py", "sample.py")):  # what these need is looked for before anything imports it
    from core.errors import require_packages

    require_packages("torch", "numpy", "pydantic", "yaml")


def lazy_names(package: str, loaded: dict[str, Any]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that exports what its module `names` does, imported on first use.

    loaded: the package's globals
    """

    def get(name: str) -> Any:
        is_private = name.startswith("_") and name != "__all__"
        if not is_private and importlib.util.find_spec(f"{package}.{name}"):  # `from core import files`
            return importlib.import_module(f"{package}.{name}")
        if not is_private:
            names = importlib.import_module(f"{package}.names")
            loaded.update({exported: getattr(names, exported) for exported in ("__all__", *names.__all__)})
        if name not in loaded:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return loaded[name]

    return get


__getattr__ = lazy_names(__name__, globals())
