"""
coreGPT from Python.

    result = coregpt.train("quickstart", callbacks=[...])     # any part of a run may be handed in
    trained = coregpt.load(result.out_dir)
    print(trained.generate("def "))

The names below are imported when they are used, so that `import coregpt` does not wait for torch.
"""

from typing import TYPE_CHECKING

from core import lazy_names

if TYPE_CHECKING:
    from core.names import *  # noqa: F403
    from coregpt.names import *  # noqa: F403


__getattr__ = lazy_names(__name__, globals())
