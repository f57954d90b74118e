"""Models of transformers: loaded whole, with the attention that is asked for, and made again of a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch

from core.errors import CheckpointError, ConfigError
from extras.hugging_face.loading import (
    enable_checkpointing,
    is_of_hugging_face,
    load_model,
    name_of,
    resume_model,
    with_attention,
)
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
    def make(kernel: str) -> str:
        if kernel != "eager":
            raise ValueError("This model has no attention with sdpa.\nmore")
        return kernel

    assert with_attention("sdpa", CPU, make) == "eager"
    assert caplog.messages == [
        "attention: sdpa cannot be used here (This model has no attention with sdpa.); using eager instead"
    ]

    def broken(kernel: str) -> str:
        raise ValueError("another cause")

    with pytest.raises(ValueError, match="another cause"):
        with_attention("sdpa", CPU, broken)


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert [name_of(given) for given in ("hf:~/gpt2", "hf:org/name", "hf:a~b")] == ["/home/me/gpt2", "org/name", "a~b"]


def test_our_own_model_has_no_activation_checkpointing() -> None:
    with pytest.raises(ConfigError, match="^activation_checkpointing=full is for models of Hugging Face"):
        enable_checkpointing(GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=5)))
