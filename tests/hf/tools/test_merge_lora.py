"""Merging adapters from the command line: the logits of the result, and small changes that 4 bits would lose."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import coregpt
from core.errors import CheckpointError, ConfigError
from tests.hf.conftest import make_gpt2
from tools.merge_lora import main, merge_lora

IDS = torch.arange(20)[None]
pytestmark = [pytest.mark.filterwarnings("ignore::FutureWarning"), pytest.mark.filterwarnings("ignore::UserWarning")]


def adapter(place: Path, scale: float = 0.2, **settings: Any) -> Any:
    """Write an adapter with random weights to `adapter`, with the tokenizer. Return the model."""
    torch.manual_seed(2)
    found = peft.LoraConfig(**{"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True, **settings})
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), found)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * scale)
    model.save_pretrained("adapter")
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("saved", [None, ["lm_head"]])
def test_the_merged_folder_computes_what_peft_does(place: Path, capsys: pytest.CaptureFixture[str], saved: Any) -> None:
    """With a head that was trained apart from the embedding, which peft's config allows: it stays apart."""
    model = adapter(place, modules_to_save=saved)
    main(["adapter", "--out", "merged"])
    merged, report = AutoModelForCausalLM.from_pretrained("merged", output_loading_info=True)

    assert capsys.readouterr().out == "wrote merged\n" and not report["missing_keys"]
    assert (logits(merged) - logits(model)).abs().max() <= 1e-5
    assert merged.config.tie_word_embeddings is (saved is None)
    assert AutoTokenizer.from_pretrained("merged").encode("the king") == AutoTokenizer.from_pretrained("gpt2").encode(
        "the king"
    )
    assert coregpt.load("merged", device="cpu") is not None


def test_a_change_below_one_step_of_four_bits_survives(place: Path) -> None:
    before = AutoModelForCausalLM.from_pretrained("gpt2").transformer.h[0].attn.c_attn.weight
    adapter(place, scale=1e-3)
    merged = AutoModelForCausalLM.from_pretrained(merge_lora(Path("adapter"))).transformer.h[0].attn.c_attn.weight
    change = (merged - before).abs()

    assert 0 < change.max() < before.abs().max() / 16


def test_an_earlier_merge_is_replaced_and_other_files_stay(place: Path) -> None:
    adapter(place)
    assert merge_lora(Path("adapter")) == merge_lora(Path("adapter")) == Path("adapter/merged")
    with pytest.raises(ConfigError, match="^--out=gpt2 holds other files: choose a new folder"):
        merge_lora(Path("adapter"), Path("gpt2"))


def test_what_holds_no_adapter_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="^gpt2 holds a complete model, and no adapter: there is nothing to merge"):
        merge_lora(Path("gpt2"))
    adapter(place)
    make_gpt2(n_layer=3).save_pretrained("gpt2")
    with pytest.raises(
        CheckpointError, match=r"the adapter is of another model: .*h.2.attn.c_attn.lora_A.weight is missing"
    ):
        merge_lora(Path("adapter"))
