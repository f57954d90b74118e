"""Folders of Hugging Face models: a GPT-2 of our form is taken, anything else refused by its config.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.checkpoint.hugging_face import require_gpt2
from core.errors import ConfigError

GPT2 = {  # what transformers 5 writes, in part
    "activation_function": "gelu_new",
    "add_cross_attention": False,
    "architectures": ["GPT2LMHeadModel"],
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_embd": 32,
    "n_head": 2,
    "n_inner": None,
    "n_layer": 1,
    "n_positions": 16,
    "reorder_and_upcast_attn": False,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
    "vocab_size": 50,
}


def folder_of(path: Path, config: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with open(path / "model.safetensors", "wb") as weights:
        weights.truncate(2**27)  # takes no room on the disk
    return path


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"activation_function": "gelu"},
        {"n_inner": 128},
        {"architectures": ["GPT2Model"]},
        {"architectures": ["GPT2DoubleHeadsModel"]},
        {"architectures": None},
        {"architectures": "GPT2LMHeadModel"},
        {"architectures": ["TFGPT2LMHeadModel"], "model_type": None},  # before transformers 2
        {"resid_pdrop": 0.3, "torch_dtype": "float16", "task_specific_params": {"text-generation": {}}},
    ],
)
def test_a_gpt2_of_our_form_is_taken(tmp_path: Path, change: dict[str, Any]) -> None:
    require_gpt2(folder_of(tmp_path, GPT2 | change))


def test_settings_that_are_left_out_are_gpt2s(tmp_path: Path) -> None:
    require_gpt2(folder_of(tmp_path, {"model_type": "gpt2"}))
    require_gpt2(folder_of(tmp_path, "\ufeff" + json.dumps({"model_type": "gpt2", "n_inner": 3072})))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type 'llama', wanted 'gpt2'"),
        ({"model_type": "gpt_neo"}, "model_type 'gpt_neo', wanted 'gpt2'"),
        ({"model_type": None, "architectures": ["BertModel"]}, r"architectures \['BertModel'\], wanted 'gpt2'"),
        ({"model_type": None, "architectures": None}, r"architectures \[\], wanted 'gpt2'"),
        (
            {"architectures": ["GPT2ForSequenceClassification"]},
            r"architectures \['GPT2ForSequenceClassification'\], wanted GPT2LMHeadModel: give the folder of",
        ),
        ({"architectures": 5}, r"architectures \[5\], wanted GPT2LMHeadModel"),
        ({"activation_function": "relu"}, 'activation_function "relu", wanted gelu or gelu_new'),
        ({"activation_function": ["relu"]}, r'activation_function \["relu"\], wanted gelu'),
        ({"n_inner": 64}, "n_inner 64, wanted 128, 4 times n_embd, or null"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings false, wanted true"),
        ({"scale_attn_weights": False}, "scale_attn_weights false, wanted true"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx true, wanted false"),
        ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn true, wanted false"),
        ({"add_cross_attention": True}, "add_cross_attention true, wanted false"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder true, wanted false"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-06, wanted 1e-05"),
        ({"quantization_config": {"bits": 4}}, r'quantization_config \{"bits": 4\}, wanted none'),
        ({"n_head": 3}, "n_embd 32, wanted a multiple of n_head 3"),
        ({"n_layer": -1}, "n_layer -1, wanted a whole number of 1 or more"),
        ({"vocab_size": "50"}, "vocab_size '50', wanted a whole number of 1 or more"),
    ],
)
def test_another_model_is_refused_with_its_setting(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        require_gpt2(folder_of(tmp_path, GPT2 | change))
    assert str(error.value).startswith(f"{tmp_path / 'config.json'}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{'model_type': 'gpt2'}", "cannot read .*config.json .*: download the model again"),
        ("[" * 100_000, "cannot read .*config.json"),
        ("[1]", "holds a list, wanted settings by name"),
        ("", "cannot read .*config.json"),
    ],
)
def test_a_damaged_config_is_one_clear_error(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_gpt2(folder_of(tmp_path, content))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_in_place_of_weights_is_named(tmp_path: Path, name: str) -> None:
    folder_of(tmp_path, GPT2)
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")

    with pytest.raises(ConfigError, match=rf"{name} is a Git LFS pointer.*fetch that with `git lfs pull`"):
        require_gpt2(tmp_path)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    (folder_of(tmp_path, GPT2) / "model.safetensors").rename(tmp_path / "tf_model.h5")

    with pytest.raises(ConfigError, match=f"{tmp_path} has no weights that can be read, wanted model.safetensors or"):
        require_gpt2(tmp_path)


def test_layers_that_the_weights_cannot_hold_are_refused_at_once(tmp_path: Path) -> None:
    """Making a model of as many would take hours before its weights were read."""
    least = 12 * 32**2
    for layers, size in ((1, least), (2, 2 * least)):
        with open(folder_of(tmp_path, {**GPT2, "n_layer": layers}) / "model.safetensors", "wb") as file:
            file.truncate(size)
        require_gpt2(tmp_path)

    with pytest.raises(ConfigError, match=r"the weights have 24.0 KiB, a model with the sizes in config.json at least"):
        require_gpt2(_with_layers(tmp_path, 3))
    with pytest.raises(ConfigError, match="at least .* TiB: download the model again"):
        require_gpt2(_with_layers(tmp_path, 10**9))


def _with_layers(folder: Path, layers: int) -> Path:
    (folder / "config.json").write_text(json.dumps({**GPT2, "n_layer": layers}))
    return folder
