"""A runtime and a model initializer for tests in a folder with data/tiny."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import core
from model import GPT, GPTConfig


@pytest.fixture
def run(run_dir: Path) -> Iterator[core.Runtime]:
    """Yield a runtime in a folder with data/tiny."""
    with core.Runtime(device="cpu") as run:
        yield run


@pytest.fixture
def initializer(run: core.Runtime) -> core.ModelInitializer:
    return core.ModelInitializer(GPT, GPTConfig, run.device)
