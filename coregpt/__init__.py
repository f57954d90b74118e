"""
coreGPT from Python.

    result = coregpt.train("quickstart", callbacks=[...])     # any part of a run may be handed in
    trained = coregpt.load(result.out_dir)
    print(trained.generate("def "))

The names below are imported when they are used, so that `import coregpt` does not wait for torch.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.names import *  # noqa: F403
    from coregpt.names import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name == "__all__" or not name.startswith("_"):
        if importlib.util.find_spec(f"{__name__}.{name}"):
            return importlib.import_module(f"{__name__}.{name}")
        names = importlib.import_module(f"{__name__}.names")
        globals().update({exported: getattr(names, exported) for exported in ("__all__", *names.__all__)})
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]
