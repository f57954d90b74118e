"""Adapters: which weights they have, what peft makes of them, and that merging changes no logit."""

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import model as own
from core.errors import CheckpointError, ConfigError
from extras.hugging_face.lora import (
    Adapter,
    LoraSettings,
    adapter_names,
    add_adapter,
    attach,
    counts,
    fingerprint,
    merge,
    read_adapter,
    require_base,
    write_adapter,
)
from extras.hugging_face.model import HuggingFaceModel
from tests.hf.conftest import VOCAB, make_gpt2, make_llama

# peft's own: deprecated names of transformers, and advice
pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]
IDS = torch.arange(12).reshape(2, 6)


def settings(targets: Any = None, saved: tuple[str, ...] = ()) -> LoraSettings:
    return LoraSettings(4, 8, 0.0, targets, list(saved))


def make_t5() -> Any:
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": VOCAB}
    torch.manual_seed(5)
    config = transformers.T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0)
    return transformers.T5ForConditionalGeneration(config).eval()


def make_own() -> Any:
    torch.manual_seed(6)
    return own.GPT(own.GPTConfig(n_layer=2, n_head=2, n_embd=32, vocab_size=VOCAB, block_size=16, dropout=0.0)).eval()


MAKE = {
    "gpt2": lambda: HuggingFaceModel(make_gpt2()).eval(),
    "llama": lambda: HuggingFaceModel(make_llama()).eval(),
    "t5": lambda: HuggingFaceModel(make_t5()).eval(),
    "own": make_own,
}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        if isinstance(model, HuggingFaceModel):
            return model.logits(input_ids=IDS, labels=IDS)
        return model(IDS, IDS)[0]


def trained(name: str, targets: Any = None, saved: tuple[str, ...] = ()) -> tuple[Any, Adapter]:
    """Return a model with an adapter whose weights, and trained modules, are random."""
    model = MAKE[name]()
    adapter = add_adapter(model, settings(targets, saved), f"hf:{name}")
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval(), adapter


def write(model: Any, adapter: Adapter, folder: Path) -> Path:
    folder.mkdir()
    state = model.state_dict()
    write_adapter(folder, adapter, {key: state[name] for key, name in adapter_names(model, adapter).items()})
    return folder


CASES: list[tuple[str, Any, tuple[str, ...]]] = [
    ("gpt2", None, ()),
    ("gpt2", ["attn.c_proj"], ()),
    ("gpt2", ["mlp.c_proj"], ()),
    ("gpt2", ["c_fc"], ("ln_f",)),
    ("gpt2", None, ("lm_head",)),
    ("gpt2", ["c_attn", "wte"], ()),
    ("llama", None, ()),
    ("llama", "all-linear", ("embed_tokens", "lm_head")),
    ("t5", None, ()),
    ("t5", ["wi", "wo"], ()),
    ("own", None, ()),
    ("own", "all-linear", ("ln_f",)),
]


@pytest.mark.parametrize(("name", "targets", "saved"), CASES)
def test_a_new_adapter_changes_no_logit_and_freezes_the_rest(name: str, targets: Any, saved: tuple[str, ...]) -> None:
    before = logits(MAKE[name]())
    model = MAKE[name]()
    adapter = add_adapter(model, settings(targets, saved), "hf:x")

    assert torch.equal(logits(model), before)
    trains = {key for key, value in model.named_parameters(remove_duplicate=False) if value.requires_grad}
    assert trains == set(adapter_names(model, adapter).values()) and trains
    assert re.fullmatch(r"[\d,]+ of [\d,]+ parameters train \(\d+\.\d\d%\), next to [1-9]\d* layers", counts(model))


@pytest.mark.parametrize(("name", "targets", "saved"), CASES)
def test_merged_logits_are_those_of_the_adapter(name: str, targets: Any, saved: tuple[str, ...]) -> None:
    model, _ = trained(name, targets, saved)
    before = logits(model)
    assert (before - logits(MAKE[name]())).abs().max() > 0.01
    merged = merge(model)

    assert (logits(merged) - before).abs().max() <= 1e-5 * max(1, before.abs().max())
    assert merged.state_dict().keys() == MAKE[name]().state_dict().keys()


@pytest.mark.parametrize(("name", "targets", "saved"), CASES)
def test_pefts_loader_computes_the_same(tmp_path: Path, name: str, targets: Any, saved: tuple[str, ...]) -> None:
    model, adapter = trained(name, targets, saved)
    folder = write(model, adapter, tmp_path / "adapter")
    base = MAKE[name]()
    core = base.transformer if isinstance(base, HuggingFaceModel) else base
    theirs = peft.PeftModel.from_pretrained(core, str(folder)).eval()

    assert torch.equal(logits(base), logits(model))  # peft changes the model in place
    assert not any(parameter.requires_grad for parameter in theirs.parameters())


@pytest.mark.parametrize(("name", "targets", "saved"), CASES)
def test_an_adapter_of_pefts_is_taken(tmp_path: Path, name: str, targets: Any, saved: tuple[str, ...]) -> None:
    model, adapter = trained(name, targets, saved)
    config, base, weights = read_adapter(write(model, adapter, tmp_path / "adapter"))
    again = MAKE[name]()
    attach(again, config, base, weights, "here")

    assert base == (f"hf:{name}" if name != "own" else "own") or name == "own"
    assert torch.equal(logits(again.eval()), logits(model))


def test_new_tokens_come_with_an_adapter_of_pefts(tmp_path: Path) -> None:
    """peft saves resized embeddings as they are, next to the adapter."""
    theirs = make_gpt2()
    theirs.resize_token_embeddings(VOCAB + 2, mean_resizing=False)
    adapted = peft.get_peft_model(theirs, peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    adapted.peft_config["default"].base_model_name_or_path = "gpt2"
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    model = MAKE["gpt2"]()
    adapter = attach(model, *read_adapter(tmp_path / "adapter"), "here")

    assert model.config.vocab_size == VOCAB + 2
    with torch.no_grad():
        expected = adapted.eval()(input_ids=IDS + VOCAB - 10).logits
        assert torch.equal(model.eval().logits(input_ids=IDS + VOCAB - 10, labels=IDS), expected)
    weights = adapter_names(model, adapter).values()
    assert "transformer.transformer.wte.weight" in weights  # so that it is saved again


@pytest.mark.parametrize("damage", ["layers", "name", "shape", "more"])
def test_an_adapter_of_another_base_is_refused(tmp_path: Path, damage: str) -> None:
    model, adapter = trained("gpt2")
    config, base, weights = read_adapter(write(model, adapter, tmp_path / "adapter"))
    other = HuggingFaceModel(make_gpt2(**({"n_layer": 3} if damage == "layers" else {})))
    first = next(iter(weights))
    if damage == "name":
        weights[first.replace("h.0", "h.7")] = weights.pop(first)
    if damage == "shape":
        weights[first] = weights[first][:, :3]
    if damage == "more":
        weights["base_model.model.transformer.h.5.attn.c_attn.lora_A.weight"] = torch.ones(1)

    with pytest.raises(CheckpointError, match="the adapter is of another model: .*(missing|no place|shape)"):
        attach(other, config, base, weights, "here")


def test_a_base_that_has_changed_is_refused() -> None:
    model = MAKE["gpt2"]()
    adapter = Adapter({}, "hf:x", fingerprint(model))
    require_base(model, adapter)
    with torch.no_grad():
        model.transformer.transformer.h[1].mlp.c_fc.weight.add_(1e-4)

    with pytest.raises(CheckpointError, match="trained on other weights than hf:x has now"):
        require_base(model, adapter)


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lora_target_modules: no layer's name ends in 'q_proj', .*c_attn, c_fc"):
        add_adapter(MAKE["gpt2"](), settings(["c_attn", "q_proj"]), "hf:x")
    with pytest.raises(ConfigError, match="lora_modules_to_save: no layer's name ends in 'head'"):
        add_adapter(MAKE["gpt2"](), settings(saved=("head",)), "hf:x")
    with pytest.raises(ConfigError, match="lm_head and wte share their weights"):
        add_adapter(make_own(), settings(saved=("lm_head",)), "hf:x")


def test_an_adapter_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    folder = write(*trained("gpt2"), tmp_path / "adapter")
    (folder / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="holds no adapter that can be read"):
        read_adapter(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="names no base model: set base_model_name_or_path"):
        read_adapter(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_adapter(folder)


def test_a_frozen_base_gets_gradients_through_checkpointing() -> None:
    """Every layer's matrices learn, as without activation checkpointing."""
    from extras.hugging_face.loading import enable_checkpointing

    found = []
    for checkpoints in (False, True):
        model, _ = trained("gpt2", ["c_attn", "c_fc"])
        if checkpoints:
            enable_checkpointing(model)
        model.train()
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        model(IDS, IDS)[1].backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})

    assert all(gradient.abs().max() > 0 for name, gradient in found[1].items() if "lora_B" in name)
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])
