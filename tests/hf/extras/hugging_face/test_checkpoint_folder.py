"""Checkpoints as folders: what transformers and peft load of them is what was saved, tied tensors included."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from core.checkpoint.format import load_checkpoint
from core.errors import CheckpointError
from extras.hugging_face.checkpoint_folder import CheckpointFolder
from extras.hugging_face.lora import LoraSettings, add_adapter
from extras.hugging_face.model import HuggingFaceModel
from tests.hf.conftest import VOCAB, make_gpt2, make_llama


def make_t5(**changes: Any) -> Any:
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": VOCAB}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, **changes))


def make_mixtral() -> Any:
    """Return a model whose weights transformers keeps under other names and shapes than its files have."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"num_key_value_heads": 1, "num_local_experts": 2, "vocab_size": VOCAB, "max_position_embeddings": 16}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, **more))


MAKE = {
    "tied head": make_gpt2,
    "apart": lambda: make_llama(tie_word_embeddings=False),
    "tied llama": lambda: make_llama(tie_word_embeddings=True),
    "t5": make_t5,
    "t5 apart": lambda: make_t5(tie_word_embeddings=False),
    "experts": make_mixtral,
}


@pytest.mark.parametrize("name", MAKE)
def test_a_folder_is_read_back_and_loaded_by_transformers(tmp_path: Path, name: str) -> None:
    model = HuggingFaceModel(MAKE[name]())
    folder = CheckpointFolder(model, None, None, "# options")
    # as from a snapshot: copies, in which no two tensors are one
    state = {key: value.clone() for key, value in model.state_dict().items()}
    folder.write(
        folder.gather({"model": state, "model_args": {"n_layer": 1}, "iter_num": 3}), tmp_path / "checkpoint-3"
    )
    read = folder.read(tmp_path / "checkpoint-3")

    assert read["model"].keys() == state.keys() and read["iter_num"] == 3 and "weights" not in read
    assert all(torch.equal(read["model"][key], value) for key, value in state.items())
    kind = transformers.AutoModelForSeq2SeqLM if "t5" in name else transformers.AutoModelForCausalLM
    theirs, report = kind.from_pretrained(tmp_path / "checkpoint-3", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert all(torch.equal(state[f"transformer.{key}"], value) for key, value in theirs.state_dict().items())
    size = sum(value.nbytes for value in dict.fromkeys(model.parameters()))
    assert (tmp_path / "checkpoint-3" / "model.safetensors").stat().st_size < size + 20_000  # tied ones once


def test_a_snapshot_of_a_frozen_base_is_not_taken(tmp_path: Path) -> None:
    model = HuggingFaceModel(make_gpt2())
    adapter = add_adapter(model, LoraSettings(2, 4, 0.0, None, []), "hf:x")
    folder = CheckpointFolder(model, adapter, None, "")
    kept = folder.gather({"model": model.state_dict(), "model_args": {}})["model"]
    folder.write({"model": kept, "model_args": {}}, tmp_path / "checkpoint-0")

    assert all(".lora_" in name for name in kept) and len(kept) == 4
    assert load_checkpoint(tmp_path / "checkpoint-0")["model"].keys() == kept.keys()
    assert folder.read(tmp_path / "checkpoint-0")["model"].keys() == model.state_dict().keys()


def test_a_folder_without_its_weights_is_one_message(tmp_path: Path) -> None:
    folder = CheckpointFolder(HuggingFaceModel(make_gpt2()), None, None, "")
    path = tmp_path / "checkpoint-0"
    folder.write({"model": folder.model.state_dict(), "model_args": {}}, path)
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[:100])
    with pytest.raises(CheckpointError, match=r"cannot read .*model.safetensors .*put a good copy in its place"):
        load_checkpoint(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="checkpoint-0 lacks transformer.wte.weight: put a good copy"):
        load_checkpoint(path)
