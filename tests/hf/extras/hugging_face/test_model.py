"""A model of transformers behind the contract of model.GPT."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from extras.hugging_face.model import UNLIMITED, HuggingFaceModel
from tests.hf.conftest import VOCAB, make_gpt2, make_llama
from tests.hf.tiny_images import make_mllama, picture

MAKERS = pytest.mark.parametrize("make", [make_gpt2, make_llama])


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(7))


@MAKERS
def test_logits_and_loss_are_those_of_transformers(make: Any) -> None:
    theirs = make()
    ours, tokens = HuggingFaceModel(theirs), ids(3, 12)
    inputs, targets = tokens[:, :-1], tokens[:, 1:].clone()

    logits, loss = ours(inputs, targets)
    expected = theirs(input_ids=tokens, labels=tokens)
    assert loss is not None and torch.allclose(loss, expected.loss, atol=1e-6)
    assert torch.equal(logits, theirs(input_ids=inputs).logits)
    last, none = ours(inputs)
    assert none is None and last.shape == (3, 1, VOCAB)
    torch.testing.assert_close(last[:, 0], logits[:, -1], rtol=1e-5, atol=1e-5)


def test_targets_of_minus_1_do_not_count() -> None:
    model, inputs, targets = HuggingFaceModel(make_gpt2()), ids(2, 8), ids(2, 8)
    targets[0, 2:] = -1

    logits, loss = model(inputs, targets)
    known = targets >= 0
    assert loss is not None and torch.allclose(loss, F.cross_entropy(logits[known], targets[known]))


@MAKERS
def test_sizes_are_those_of_the_config_under_nanogpts_names(make: Any) -> None:
    model = HuggingFaceModel(make())
    heads = 2 if make is make_gpt2 else 4
    assert vars(model.config) == {"block_size": 32, "vocab_size": VOCAB, "n_layer": 2, "n_head": heads, "n_embd": 32}

    before = model.transformer.config.to_json_string()
    model.crop_block_size(8)
    assert model.config.block_size == 8 and model.transformer.config.to_json_string() == before
    assert model.model_args()["block_size"] == 8
    assert 0 < model.estimate_mfu(2, 1.0) == 2 * model.estimate_mfu(1, 1.0)


def test_a_model_with_relative_positions_has_no_longest_context() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    model = HuggingFaceModel(BloomForCausalLM(BloomConfig(vocab_size=VOCAB, hidden_size=16, n_layer=1, n_head=2)))
    assert model.config.block_size == UNLIMITED


def test_matrices_decay_and_tied_weights_count_once() -> None:
    model = HuggingFaceModel(make_gpt2())
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")

    decayed, others = optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"], decayed["fused"]) == (0.1, 0.0, True)
    assert all(parameter.dim() >= 2 for parameter in decayed["params"])
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == model.get_num_params()
    assert model.get_num_params() == model.transformer.num_parameters()


def test_generation_is_greedy_at_temperature_0_and_crops_its_context() -> None:
    model = HuggingFaceModel(make_gpt2()).eval()
    prompt = ids(1, 4)

    written = model.generate(prompt, 40, temperature=0.0)
    expected = model.transformer.generate(prompt, max_new_tokens=28, do_sample=False, eos_token_id=None)
    assert torch.equal(written[:, :32], expected) and written.shape == (1, 44)
    torch.manual_seed(0)
    assert not torch.equal(model.generate(prompt, 9, temperature=2.0), model.generate(prompt, 9, temperature=2.0))


def test_a_model_of_images_reads_tokens_that_its_head_does_not_write() -> None:
    """A Mllama has rows of its embedding for the image's mark, and none in its head."""
    theirs, processor = make_mllama()
    model, mark = HuggingFaceModel(theirs), processor.image_token_id
    assert model.config.vocab_size > mark == theirs.config.text_config.vocab_size
    assert model.leaves_weights_unused and not HuggingFaceModel(make_gpt2()).leaves_weights_unused

    batch = dict(processor(text=["<|image|>the king"], images=[[picture(1)]], return_tensors="pt"))
    logits = model(labels=batch["input_ids"], **batch)
    assert torch.equal(logits, theirs(**batch).logits) and logits.size(-1) == mark
    text, _ = model(batch["input_ids"][:, 2:])  # without an image
    assert text.shape == (1, 1, mark) and text.isfinite().all()
