"""The names that `core` exports."""

import importlib
import inspect
from pathlib import Path

import core
from core import names

# classes that the parts of `core` create and pass to each other; code outside need not import them
INTERNAL = {
    "Address",
    "AgreedFlags",
    "CallbackList",
    "CheckpointFile",
    "CheckpointSearch",
    "Decision",
    "EmergencyExchange",
    "FutureFormatError",
    "LastingStream",
    "Modifiers",
    "NumberType",
    "ProcessGroup",
    "Ranks",
    "RecentStep",
    "Requests",
    "RunState",
    "Snapshot",
    "StepReport",
    "StepVerdict",
    "StopRequest",
    "TooLargeError",
    "TorchFile",
    "UnreadableError",
    "UpdateWatch",
    "WarnOnce",
}
ROOT = Path(core.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if path.stem != "__init__")


def test_public_names_are_sorted_and_exist() -> None:
    assert names.__all__ == sorted(set(names.__all__))
    assert all(hasattr(core, name) for name in names.__all__)


def test_every_public_class_except_the_internal_ones_is_exported() -> None:
    not_exported = set()
    for path in MODULES:
        module = importlib.import_module(".".join(path.with_suffix("").relative_to(ROOT.parent).parts))
        for class_name, value in inspect.getmembers(module, inspect.isclass):
            if value.__module__ == module.__name__ and not class_name.startswith("_"):
                if class_name in names.__all__:
                    assert getattr(core, class_name) is value
                else:
                    not_exported.add(class_name)
    assert not_exported == INTERNAL
