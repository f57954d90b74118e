"""Weights of other programs: names, masks, ties, sizes, and NaN."""

from typing import Any

import pytest
import torch

from core.checkpoint.weights import fit_to_model, is_causal_mask, non_finite, shape_args, without_common_prefix
from core.errors import CheckpointError
from model import GPT

PAST = torch.ones(6, 6).tril()
MASKS = {
    "nanoGPT": ("transformer.h.0.attn.bias", PAST.view(1, 1, 6, 6)),
    "half precision": ("transformer.h.0.attn.bias", PAST.view(1, 1, 6, 6).bfloat16()),
    "Hugging Face, uint8": ("transformer.h.0.attn.bias", PAST.view(1, 1, 6, 6).byte()),
    "Hugging Face, bool": ("h.0.attn.bias", PAST.view(1, 1, 6, 6).bool()),
    "Hugging Face, the number": ("transformer.h.11.attn.masked_bias", torch.tensor(-10_000.0)),
    "minGPT": ("transformer.h.0.attn.mask", PAST.view(1, 1, 6, 6)),
    "tril": ("transformer.h.0.attn.tril", PAST),
    "true where masked": ("transformer.h.0.attention.mask", ~PAST.bool()),
    "added to the scores": ("transformer.h.0.attn.causal_mask", torch.full((6, 6), float("-inf")).triu(1)),
}
NO_MASKS = {
    "a bias": ("transformer.h.0.attn.bias", torch.zeros(6)),
    "a bias of the matrix": ("transformer.h.0.attn.c_attn.bias", torch.zeros(18)),
    "a matrix": ("transformer.h.0.attn.c_proj.weight", PAST),
    "a window": ("transformer.h.0.attn.bias", (PAST - PAST.tril(-2)).view(1, 1, 6, 6)),
    "bidirectional": ("transformer.h.0.attn.bias", torch.ones(1, 1, 6, 6)),
    "relative positions": ("transformer.h.0.attn.bias", torch.randn(6, 6)),
    "not in the attention": ("transformer.h.0.mlp.mask", PAST),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_causal_mask_is_recognized(kind: str) -> None:
    assert is_causal_mask(*MASKS[kind])


@pytest.mark.parametrize("kind", NO_MASKS)
def test_another_tensor_of_such_a_name_is_no_causal_mask(kind: str) -> None:
    """Dropping it would change what the network computes."""
    assert not is_causal_mask(*NO_MASKS[kind])


def test_masks_that_the_model_does_not_save_are_dropped(tiny_model: GPT) -> None:
    own = tiny_model.state_dict()
    extra = {name: tensor for name, tensor in MASKS.values() if name.startswith("transformer.h.0.")}

    assert list(fit_to_model({**own, **extra}, own)) == list(own)


def test_masks_that_only_the_model_saves_are_its_own(tiny_model: GPT) -> None:
    state, mask = tiny_model.state_dict(), PAST.view(1, 1, 6, 6)
    own = {**state, "transformer.h.0.attn.bias": mask}

    assert fit_to_model(state, own)["transformer.h.0.attn.bias"] is mask
    assert "transformer.h.0.attn.bias" in fit_to_model(own, own)


@pytest.mark.parametrize("kept", ["transformer.wte.weight", "lm_head.weight"])
def test_one_tensor_of_a_tied_pair_is_enough(tiny_model: GPT, kept: str) -> None:
    own = tiny_model.state_dict()
    pair = {"transformer.wte.weight", "lm_head.weight"}
    state = {name: tensor.clone() for name, tensor in own.items() if name == kept or name not in pair}

    fitted = fit_to_model(state, own)

    assert fitted.keys() == own.keys() and all(torch.equal(fitted[name], own[name]) for name in own)


def test_a_tied_pair_that_differs_is_refused(tiny_model: GPT) -> None:
    own = tiny_model.state_dict()
    state = {name: tensor.clone() for name, tensor in own.items()}
    assert fit_to_model(state, own) == state

    state["lm_head.weight"][3, 4] += 0.01
    with pytest.raises(
        CheckpointError, match=r"^transformer\.wte\.weight and lm_head\.weight differ in the checkpoint"
    ):
        fit_to_model(state, own)


def test_a_pair_that_the_model_does_not_tie_may_differ() -> None:
    own = {"transformer.wte.weight": torch.zeros(2, 2), "lm_head.weight": torch.zeros(2, 2)}
    state = {"transformer.wte.weight": torch.zeros(2, 2), "lm_head.weight": torch.ones(2, 2)}

    assert fit_to_model(state, own) == state


@pytest.mark.parametrize("prefix", ["model.", "net.gpt.", "a.b.c."])
def test_a_prefix_that_all_names_share_is_removed(tiny_model: GPT, prefix: str) -> None:
    own = tiny_model.state_dict()
    state = {prefix + name: tensor for name, tensor in own.items()}

    assert fit_to_model(state, own) == dict(own)
    assert without_common_prefix({**state, "teacher.weight": torch.ones(1)}).keys() == {*state, "teacher.weight"}


def test_a_prefix_that_the_model_has_itself_is_kept(tiny_model: GPT) -> None:
    own = {f"gpt.{name}": tensor for name, tensor in tiny_model.state_dict().items()}

    assert fit_to_model(dict(own), own) == own


@pytest.mark.parametrize("left_out", ["transformer.wte.weight", "lm_head.weight", "nothing"])
def test_sizes_are_those_of_the_weights(tiny_model: GPT, left_out: str) -> None:
    state = {name: tensor for name, tensor in tiny_model.state_dict().items() if name != left_out}
    sizes = {"n_layer": 2, "n_embd": 32, "block_size": 16, "bias": False, "vocab_size": 17}

    assert shape_args(state) == sizes == shape_args({f"model.{name}": tensor for name, tensor in state.items()})
    assert shape_args({**state, "transformer.ln_f.bias": torch.zeros(32)})["bias"] is True
    del state["transformer.wpe.weight"]
    assert "block_size" not in shape_args(state)
    assert shape_args({"weight": torch.ones(3)}) == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_that_are_not_finite_are_named(value: float, dtype: torch.dtype) -> None:
    state: Any = {"a": torch.ones(3, dtype=dtype), "b": torch.ones(2, 2, dtype=dtype), "c": torch.ones(3).long()}
    assert list(non_finite(state)) == []

    state["b"][1, 0] = value
    assert list(non_finite(state)) == ["b"]


def test_eight_bit_floats_are_searched_for_nan() -> None:
    weight = torch.ones(3).to(torch.float8_e4m3fn)
    assert list(non_finite({"a": weight})) == []

    assert list(non_finite({"a": torch.full((3,), float("nan")).to(torch.float8_e4m3fn)})) == ["a"]


def test_a_mask_of_infinite_numbers_is_no_damage() -> None:
    name, mask = MASKS["added to the scores"]

    assert list(non_finite({name: mask})) == []
