"""Where a model of Hugging Face comes from, and what its data's ids stand for. See also tests/hf/test_training.py."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from config.options import Options
from core import RunFolder
from data.tokenizers import CharTokenizer
from extras.hugging_face.tokenizer_import import tokenizer_meta
from wiring.hugging_face.models import hugging_face_source, is_hugging_face, log_other_tokenizer, tokens_of_start
from wiring.start import RunStart


def test_the_start_or_the_checkpoint_says_that_it_is_one() -> None:
    theirs, ours = {"model_args": {"hugging_face": {}}}, {"model_args": {"n_layer": 1}}
    answers = [is_hugging_face(*given) for given in (("hf:gpt2", None), ("resume", theirs), ("resume", ours))]
    assert answers == [True, True, False] and not is_hugging_face("gpt2", None)


def test_a_dropout_that_is_not_given_is_the_models(made: Path) -> None:
    device = torch.device("cpu")
    for options, dropout in ((Options(), 0.1), (Options(dropout=0.0), 0.0), (Options(dropout=0.4), 0.4)):
        model = hugging_face_source(options, f"hf:{made / 'gpt2'}", device, None)({}).model
        assert model.transformer.config.resid_pdrop == dropout


def test_ids_without_meta_are_those_of_the_models_tokenizer(made: Path) -> None:
    start = RunStart(f"hf:{made / 'gpt2'}", None, RunFolder("out"))
    assert tokens_of_start(start) == tokenizer_meta(str(made / "gpt2"))
    assert tokens_of_start(start._replace(init_from="scratch")) is None


def test_a_data_set_of_other_tokens_is_noticed(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def data(meta: Any) -> Any:
        return SimpleNamespace(source=SimpleNamespace(meta=meta, meta_path=path), rows=None)

    path = tmp_path / "meta.pkl"

    caplog.set_level(logging.INFO, "coregpt")
    name = f"hf:{made / 'gpt2'}"
    log_other_tokenizer(name, data(CharTokenizer.from_text("abc").meta()))  # taken from the model, as there is no file
    path.touch()
    log_other_tokenizer(name, data(tokenizer_meta(str(made / "gpt2"))))
    assert caplog.messages == []
    log_other_tokenizer(name, data(CharTokenizer.from_text("abc").meta()))
    assert caplog.messages == [f"{name}: its tokenizer gives other ids than that of {path}"]
