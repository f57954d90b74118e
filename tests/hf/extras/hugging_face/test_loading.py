"""Models of transformers: loaded whole, with the attention that is asked for, and made again of a checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from core.errors import CheckpointError, ConfigError
from extras.hugging_face.loading import (
    enable_checkpointing,
    is_of_hugging_face,
    load_model,
    name_of,
    read_config,
    resume_model,
    with_attention,
)
from extras.hugging_face.model import UNLIMITED
from model import GPT, GPTConfig

CPU = torch.device("cpu")


def checkpoint(loaded: Any) -> dict[str, Any]:
    return {"model": loaded.model.state_dict(), "model_args": loaded.model_args}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_checkpoint_is_the_same_model(made: Path, name: str) -> None:
    loaded = load_model(str(made / name), CPU, "sdpa", None)
    assert is_of_hugging_face(checkpoint(loaded)) and not is_of_hugging_face(None)
    again = resume_model(checkpoint(loaded), CPU, "sdpa", None)

    idx = torch.arange(16)[None]
    assert torch.equal(again.model.eval()(idx, idx)[0], loaded.model.eval()(idx, idx)[0])
    assert again.model_args == loaded.model_args
    assert again.model.transformer.config.to_json_string() == loaded.model.transformer.config.to_json_string()


def test_a_checkpoint_that_does_not_fit_is_refused(made: Path) -> None:
    saved = checkpoint(load_model(str(made / "gpt2"), CPU, "sdpa", None))
    del saved["model"]["transformer.transformer.wpe.weight"]
    with pytest.raises(CheckpointError, match=r"does not fit the model: transformer.transformer.wpe.weight is missing"):
        resume_model(saved, CPU, "sdpa", None)
    saved["model_args"]["hugging_face"]["model_type"] = "of-tomorrow"
    with pytest.raises(CheckpointError, match="^the checkpoint's of-tomorrow cannot be made .* install the version of"):
        resume_model(saved, CPU, "sdpa", None)


@pytest.mark.parametrize(("ours", "theirs"), [("sdpa", "sdpa"), ("manual", "eager"), ("flash", "sdpa")])
def test_the_attention_option_chooses_the_kernel(
    made: Path, ours: str, theirs: str, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_model(str(made / "llama"), CPU, ours, None)

    assert loaded.model.transformer.config._attn_implementation == theirs
    is_said = any("attention=flash needs a CUDA device" in line for line in caplog.messages)
    assert is_said == (ours == "flash")


def test_a_kernel_that_cannot_be_had_falls_back(caplog: pytest.LogCaptureFixture) -> None:
    """From flash to sdpa and on to eager, which every model has; only flash is asked for, and missed."""
    tried: list[str] = []

    def make(kernel: str) -> str:
        tried.append(kernel)
        if kernel == "flash_attention_2":
            raise ImportError("FlashAttention2 is not installed.\nmore")
        if kernel == "sdpa":
            raise ValueError("OldModel does not support torch.nn.functional.scaled_dot_product_attention yet")
        return kernel

    assert with_attention("flash", torch.device("cuda"), make) == "eager"
    assert tried == ["flash_attention_2", "sdpa", "eager"]
    assert caplog.messages == [
        "attention=flash cannot be used here (FlashAttention2 is not installed.); using sdpa instead"
    ]
    assert with_attention("sdpa", CPU, make) == "eager" and len(caplog.messages) == 1

    def broken(kernel: str) -> str:
        raise ValueError("hidden_size is no multiple of the number of attention heads")

    with pytest.raises(ValueError, match="hidden_size"):
        with_attention("sdpa", CPU, broken)


def test_the_generation_config_survives_a_checkpoint(made: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(made / "llama")
    model.generation_config.update(temperature=0.6, do_sample=True, eos_token_id=[0, 5, 7], max_new_tokens=99)
    model.save_pretrained(tmp_path)
    again = resume_model(checkpoint(load_model(str(tmp_path), CPU, "sdpa", None)), CPU, "sdpa", None).model

    kept = again.transformer.generation_config
    assert (kept.temperature, kept.do_sample, kept.eos_token_id, kept.max_new_tokens) == (0.6, True, [0, 5, 7], 99)


def test_a_model_that_sees_later_tokens_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertLMHeadModel

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    for is_decoder in (False, True):
        BertLMHeadModel(BertConfig(vocab_size=50, is_decoder=is_decoder, **shape)).save_pretrained(tmp_path / "bert")
        if is_decoder:
            assert load_model(str(tmp_path / "bert"), CPU, "sdpa", None).model.config.n_head == 2
            continue
        with pytest.raises(ConfigError, match="a BertLMHeadModel sees later tokens here, and would learn to copy them"):
            load_model(str(tmp_path / "bert"), CPU, "sdpa", None)


def test_a_model_without_attention_is_one_too(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1)).save_pretrained(tmp_path)
    shape = load_model(str(tmp_path), CPU, "sdpa", None).model.config
    assert (shape.n_head, shape.n_embd, shape.block_size) == (0, 16, UNLIMITED)


def test_folders_of_other_kinds_are_one_message(made: Path, tmp_path: Path) -> None:
    config = json.loads((made / "gpt2" / "config.json").read_text())
    for name, more in (("four-bits", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}),):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**config, **more}))
    for name, message in (
        ("", "init_from=hf:: there is no such folder"),
        (str(tmp_path / "gone"), "gone: there is no such folder: give a folder that save_pretrained has written"),
        (str(tmp_path / "four-bits"), "four-bits: the weights are quantised, and all weights train: give the folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_config(name)


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert [name_of(given) for given in ("hf:~/gpt2", "hf:org/name", "hf:a~b")] == ["/home/me/gpt2", "org/name", "a~b"]


def test_our_own_model_has_no_activation_checkpointing() -> None:
    with pytest.raises(ConfigError, match="^activation_checkpointing=full is for models of Hugging Face"):
        enable_checkpointing(GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=5)))
