"""Processors of image-text models: which models have one, and how checkpoints keep it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoProcessor

from core.errors import ConfigError
from data.package_tokenizers import HuggingFaceTokenizer
from data.tokenizers import CharTokenizer, tokenizer_from_meta
from extras.hugging_face.processor import (
    files_of,
    make_processor,
    preprocessor_of,
    processor_files,
    takes_images,
)
from extras.hugging_face.tokenizer_import import tokenizer_meta
from tests.hf.tiny_images import END, MARK, make_llava, picture

TEXTS = [f"{MARK}the king{END}", f"{MARK}war{END}"]


def kept(folder: Path) -> HuggingFaceTokenizer:
    tokenizer = tokenizer_from_meta(json.loads(json.dumps(tokenizer_meta(str(folder)))))
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    return tokenizer


@pytest.mark.parametrize("name", ["mllama", "llava"])
def test_a_kept_processor_makes_the_same_tensors(pictured: Path, name: str, tmp_path: Path) -> None:
    theirs, ours = AutoProcessor.from_pretrained(pictured / name), make_processor(kept(pictured / name))
    again = tmp_path / "again"
    preprocessor_of(kept(pictured / name), 64).save_pretrained(again)

    images = [[picture(1)], [picture(2, 80)]]
    wanted = theirs(text=TEXTS, images=images, padding=True, return_tensors="pt")
    assert "pixel_values" in wanted and ours.chat_template == theirs.chat_template
    for processor in (ours, AutoProcessor.from_pretrained(again)):
        found = processor(text=TEXTS, images=images, padding=True, return_tensors="pt")
        assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_text_models_have_none(made: Path) -> None:
    for name in ("gpt2", "llama", "t5", "no/such-model"):
        assert processor_files(str(made / name) if "/" not in name else name) is None
    assert "processor" not in (tokenizer_meta(str(made / "gpt2")) or {})
    assert isinstance(preprocessor_of(CharTokenizer.from_text("ab"), 8), transformers.PreTrainedTokenizerFast)


def test_models_are_chosen_by_transformers_own_table(pictured: Path, made: Path) -> None:
    configs: list[tuple[Any, bool]] = [
        (AutoConfig.from_pretrained(pictured / "mllama"), True),
        (AutoConfig.from_pretrained(pictured / "llava"), True),
        (transformers.Gemma3Config(), True),  # which is in the table of text models, too
        (transformers.Gemma3TextConfig(), False),
        (transformers.Qwen2VLConfig(), True),
        (AutoConfig.from_pretrained(made / "gpt2"), False),
        (AutoConfig.from_pretrained(made / "t5"), False),
        (transformers.ViTConfig(), False),
        (transformers.Florence2Config(), False),  # with an encoder
    ]
    for config, wanted in configs:
        assert takes_images(config) == wanted, type(config).__name__


def test_a_processor_that_cannot_be_read_is_a_warning(
    pictured: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(pictured / "mllama", tmp_path / "broken")
    (tmp_path / "broken" / "processor_config.json").write_text("{")

    assert processor_files(str(tmp_path / "broken")) is None
    assert caplog.messages[-1].startswith(f"{tmp_path / 'broken'}: its processor of images cannot be read (")
    tokenizer = kept(pictured / "mllama").with_processor({"processor_config.json": "{"})
    with pytest.raises(ConfigError, match=r"^the model's processor of images cannot be made \("):
        make_processor(tokenizer)


def test_files_stay_in_their_folder(pictured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint may come from anybody."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tokenizer = kept(pictured / "mllama")
    assert tokenizer.processor is not None
    make_processor(tokenizer.with_processor({**tokenizer.processor, "../outside.json": "{}"}))

    assert list(tmp_path.iterdir()) == []


def test_the_files_are_texts_without_the_tokenizer() -> None:
    files = files_of(make_llava()[1])

    assert "tokenizer.json" not in files and "processor_config.json" in files
    assert all(isinstance(part, str) for pair in files.items() for part in pair)
