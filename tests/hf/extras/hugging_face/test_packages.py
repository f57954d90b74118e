"""The transformers package, imported where it is needed."""

import sys

import pytest
import transformers

import train
from core.errors import ConfigError
from extras.hugging_face.packages import import_transformers


def test_the_package_is_returned() -> None:
    assert import_transformers() is transformers


def test_without_the_package_one_line_says_how_to_install_it(place: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)

    with pytest.raises(ConfigError, match=r"^models of Hugging Face need the transformers package: pip install"):
        train.main(["--init_from=hf:gpt2", "--dataset=words", "--device=cpu", "--block_size=16"])
