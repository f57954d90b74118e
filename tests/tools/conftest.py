"""Saving checkpoints as the legacy programs save them."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import model as model_module
from tests.tools.legacy_runs import ModelMode, StickyStageConfig


@pytest.fixture
def save(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Path], Path]:
    """Return a function that saves with classes of modules that cannot be imported when the file is read."""

    def write(content: Any, path: Path) -> Path:
        with monkeypatch.context() as patch:
            old = types.ModuleType("train_utils")
            for kind, module in ((ModelMode, model_module), (StickyStageConfig, old)):
                patch.setattr(kind, "__module__", module.__name__)
                patch.setattr(module, kind.__name__, kind, raising=False)
            patch.setitem(sys.modules, "train_utils", old)
            torch.save(content, path)
        return path

    return write
