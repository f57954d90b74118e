"""Our GPT as transformers' GPT-2: logits that are equal to the last bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, pipeline

from core.errors import ConfigError
from extras.hugging_face.gpt2_export import to_gpt2, write_folder
from model import GPT, GPTConfig
from tests.hf.conftest import make_gpt2, make_tokenizer

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 16, "vocab_size": 300}


def make(**changes: Any) -> GPT:
    """Return a model with large weights, biases too."""
    torch.manual_seed(5)
    model = GPT(GPTConfig(**{**SHAPE, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def logits(model: Any, idx: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model(idx, idx)[0] if isinstance(model, GPT) else model(input_ids=idx).logits
    return found.detach()


IDX = torch.arange(48).view(3, 16) * 5


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("shape", [{}, {"n_layer": 3, "n_head": 3, "n_embd": 96, "block_size": 40, "vocab_size": 512}])
def test_logits_are_equal_both_ways(bias: bool, activation: str, shape: dict[str, int], tmp_path: Path) -> None:
    ours = make(bias=bias, activation=activation, **shape)
    write_folder(to_gpt2(ours), None, tmp_path)

    theirs, report = GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert theirs.lm_head.weight.data_ptr() == theirs.transformer.wte.weight.data_ptr()
    assert torch.equal(logits(theirs.eval(), IDX), logits(ours, IDX))
    back = GPT.from_pretrained(str(tmp_path), {"activation": activation}).eval()
    assert torch.equal(logits(back, IDX), logits(ours, IDX))


def test_the_other_activation_is_noticed() -> None:
    ours, other = make(), make(activation="gelu_tanh")
    other.load_state_dict(ours.state_dict())

    assert not torch.equal(logits(to_gpt2(other), IDX), logits(ours, IDX))


def test_openais_activation_is_exact_with_gelu_tanh(tmp_path: Path) -> None:
    theirs = make_gpt2()  # gelu_new
    theirs.save_pretrained(tmp_path)
    idx = IDX % 300

    assert torch.equal(
        logits(GPT.from_pretrained(str(tmp_path), {"activation": "gelu_tanh"}).eval(), idx), logits(theirs, idx)
    )


def test_the_folder_is_one_that_a_pipeline_runs(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    write_folder(to_gpt2(make()), tokenizer, tmp_path)

    files = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= files
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.eos_token_id == loaded.generation_config.eos_token_id == 0
    answer = pipeline("text-generation", str(tmp_path))("the king", max_new_tokens=4, do_sample=False)
    assert answer[0]["generated_text"].startswith("the king")


def test_no_random_number_is_drawn_from_the_users() -> None:
    model = make()
    before = torch.get_rng_state()
    to_gpt2(model)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_encoding": "rotary"}, "^the model has position_encoding=rotary, which a GPT-2 .* wanted absolute$"),
        ({"attention_type": "bidirectional"}, "^the model has attention_type=bidirectional"),
        ({"mode": "token_classifier"}, "^the model has mode=token_classifier"),
    ],
)
def test_what_a_gpt2_cannot_be_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_gpt2(make(**changes))
    other: Any = torch.nn.Linear(1, 1)
    other.config = object()
    with pytest.raises(ConfigError, match="^the export is for models of coreGPT's model.py, got one with a object"):
        to_gpt2(other)
