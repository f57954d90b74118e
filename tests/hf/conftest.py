"""Tiny models and tokenizers of Hugging Face, made here: no hub is needed. Importing transformers takes seconds."""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

transformers.utils.logging.disable_progress_bar()
VOCAB = 300
WORDS = ["the", "king", "queen", "speaks", "to", "me", "and", "you", "of", "war", "love", "night", "\n", ".", ","]


def text(count: int = 4000, seed: int = 1) -> str:
    """Return a text of words, in which the next word depends on the last one."""
    draw, words = random.Random(seed), ["the"]
    while len(words) < count:
        place = WORDS.index(words[-1])
        words.append(WORDS[(place + draw.choice([1, 1, 1, 4])) % len(WORDS)])
    return " ".join(words)


def make_tokenizer() -> Any:
    """Return a byte-level BPE that is trained on the text; its end token is id 0."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    settings = {"vocab_size": VOCAB, "special_tokens": ["<|endoftext|>"], "initial_alphabet": alphabet}
    made.train_from_iterator([text()], trainers.BpeTrainer(show_progress=False, **settings))
    end = "<|endoftext|>"
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token=end, eos_token=end)


def make_gpt2(**changes: Any) -> Any:
    """Return a tiny GPT-2 of transformers with large random weights."""
    shape = {"vocab_size": VOCAB, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(3)
    return _large(transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**shape, **ends, **changes})))


def make_llama(**changes: Any) -> Any:
    """Return a tiny Llama of transformers with large random weights."""
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(4)
    return _large(transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**shape, **heads, **ends, **changes})))


def _large(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `gpt2` and `llama`, each with the tokenizer, `t5` without one, and token bins."""
    folder = tmp_path_factory.mktemp("made")
    tokenizer = make_tokenizer()
    for name, model in (("gpt2", make_gpt2()), ("llama", make_llama())):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": VOCAB}
    sizes |= {"decoder_start_token_id": 0, "pad_token_id": 0}
    transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).save_pretrained(folder / "t5")
    (folder / "data" / "words").mkdir(parents=True)
    for split, seed in (("train", 1), ("val", 2)):
        ids = tokenizer.encode(text(seed=seed))
        np.array(ids, dtype=np.uint16).tofile(folder / "data" / "words" / f"{split}.bin")
    return folder


@pytest.fixture(scope="session")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `mllama` and `llava`, each with its processor."""
    from tests.hf.tiny_images import make_llava, make_mllama, save

    folder = tmp_path_factory.mktemp("pictured")
    save(make_mllama, folder / "mllama")
    save(make_llava, folder / "llava")
    return folder


@pytest.fixture
def studio(pictured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with copies of what `pictured` holds, and mine.py, rows with pictures."""
    from tests.hf.tiny_images import ROWS

    shutil.copytree(pictured, tmp_path / "studio")
    monkeypatch.chdir(tmp_path / "studio")
    Path("mine.py").write_text(ROWS)
    return tmp_path / "studio"


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder with copies of what `made` holds."""
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    yield tmp_path / "place"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the libraries leave files to the garbage collector."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
        item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
