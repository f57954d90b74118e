"""Loading pyplot, and the error if matplotlib is missing."""

import sys

import pytest

from core.errors import ConfigError
from tools.pyplot import load_pyplot


def test_pyplot_uses_a_backend_without_a_screen() -> None:
    pytest.importorskip("matplotlib").use("svg")

    assert load_pyplot().get_backend().lower() == "agg"


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(ConfigError, match=r"pip install -e '\.\[report\]'"):
        load_pyplot()
