"""The names that `core` offers."""

import importlib
import inspect
from pathlib import Path

import core

MODULES = sorted(path.stem for path in Path(core.__file__).parent.glob("*.py") if path.stem != "__init__")


def test_public_names_are_sorted_and_exist() -> None:
    assert core.__all__ == sorted(set(core.__all__))
    assert all(hasattr(core, name) for name in core.__all__)


def test_every_public_class_is_offered() -> None:
    for name in MODULES:
        module = importlib.import_module(f"core.{name}")
        for class_name, value in inspect.getmembers(module, inspect.isclass):
            if value.__module__ == module.__name__ and not class_name.startswith("_"):
                assert class_name in core.__all__
                assert getattr(core, class_name) is value


def test_every_public_name_has_a_docstring() -> None:
    assert [name for name in core.__all__ if not inspect.getdoc(getattr(core, name))] == []
