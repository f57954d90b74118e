"""The GPT: shapes, causality, attention backends, cropping, pretrained weights, generation."""

import importlib.util
import logging
import math
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import model as model_file
from core.errors import ConfigError
from model import GPT, MLP, GPTConfig, LayerNorm, manual_attention, rotary_table, rotate, sdpa_attention

TINY = GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=17, bias=False)
VARIANTS = [
    dict(attention_type=kind, position_encoding=positions)
    for kind in ("causal", "bidirectional")
    for positions in ("absolute", "rotary")
]


def variant_id(variant: dict[str, str]) -> str:
    return "-".join(variant.values())


variants = pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)


def make(**changes: Any) -> GPT:
    """Return a tiny model in evaluation mode, with fixed weights large enough that attention matters."""
    torch.manual_seed(1337)
    model = GPT(replace(TINY, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model.eval()


def tokens(batch: int = 2, length: int = 16, vocab_size: int = 17) -> torch.Tensor:
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(0))


# forward


@variants
def test_logits_and_loss_have_the_documented_shapes(variant: dict[str, str]) -> None:
    model, idx = make(**variant), tokens(3, 7)

    logits, loss = model(idx, tokens(3, 7))
    assert logits.shape == (3, 7, 17)
    assert loss.shape == () and loss.dtype == torch.float32

    logits, loss = model(idx)
    assert logits.shape == (3, 1 if variant["attention_type"] == "causal" else 7, 17)
    assert loss is None


@variants
def test_the_logits_without_targets_are_those_with_targets(variant: dict[str, str]) -> None:
    model, idx = make(**variant), tokens()

    all_logits = model(idx, idx)[0]
    torch.testing.assert_close(
        model(idx)[0], all_logits[:, -1:] if variant["attention_type"] == "causal" else all_logits
    )


@variants
def test_a_changed_token_affects_earlier_logits_only_if_bidirectional(variant: dict[str, str]) -> None:
    """Only in a bidirectional model does a token change the logits of earlier positions."""
    model, idx = make(**variant), tokens()
    changed = idx.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 17

    before, after = model(idx, idx)[0], model(changed, idx)[0]

    changed_positions = (before - after).abs().amax(dim=(0, 2)) > 1e-4
    first_changed = 9 if variant["attention_type"] == "causal" else 0
    assert changed_positions.tolist() == [position >= first_changed for position in range(16)]


def test_the_loss_is_the_mean_over_positions_whose_target_is_not_minus_one() -> None:
    model, idx = make(), tokens()
    targets = idx.roll(-1, dims=1)
    logits = model(idx, targets)[0]
    losses = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]  # (B, T)
    has_target = torch.zeros_like(targets, dtype=torch.bool)
    has_target[0, 3:9] = True

    torch.testing.assert_close(model(idx, targets)[1], losses.mean())
    torch.testing.assert_close(model(idx, targets.where(has_target, -1))[1], losses[has_target].mean())


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"17 tokens do not fit block_size=16"):
        make()(tokens(1, 17))


def test_dropout_acts_in_training_only() -> None:
    model, idx = make(dropout=0.5), tokens()

    assert torch.equal(model(idx, idx)[0], model(idx, idx)[0])
    model.train()
    assert not torch.equal(model(idx, idx)[0], model(idx, idx)[0])


# parameters


def test_the_token_matrix_is_tied_to_the_head() -> None:
    model = make()

    assert model.transformer["wte"].weight is model.lm_head.weight
    model(tokens(), tokens())[1].backward()
    assert len(list(model.parameters())) == len(model.state_dict()) - 1


@pytest.mark.parametrize("bias", [False, True])
def test_parameter_names_are_nanogpts(bias: bool) -> None:
    block = ["ln_1.weight", "attn.c_attn.weight", "attn.c_proj.weight", "ln_2.weight", "mlp.c_fc.weight",
             "mlp.c_proj.weight"]  # fmt: skip
    expected = ["transformer.wte.weight", "transformer.wpe.weight"]
    expected += [f"transformer.h.{layer}.{name}" for layer in range(2) for name in block]
    expected += ["transformer.ln_f.weight", "lm_head.weight"]
    if bias:  # all layers but the embeddings and the head
        with_bias = [name for name in expected if "transformer.h." in name or "ln_f" in name]
        expected += [name.replace("weight", "bias") for name in with_bias]

    model = make(bias=bias)

    assert set(model.state_dict()) == set(expected)
    assert all(bool(tensor.any()) is name.endswith("weight") for name, tensor in model.state_dict().items())


def test_rotary_positions_add_nothing_to_the_checkpoint() -> None:
    assert set(make().state_dict()) - set(make(position_encoding="rotary").state_dict()) == {"transformer.wpe.weight"}


def test_initial_standard_deviations() -> None:
    """Standard deviation 0.02; for the residual projections divided by sqrt(2 * n_layer)."""
    state = GPT(replace(TINY, n_embd=128, n_layer=8, bias=True)).state_dict()

    for name, tensor in state.items():
        if tensor.dim() == 2:
            expected = 0.02 / 4 if name.endswith("c_proj.weight") else 0.02
            assert tensor.std().item() == pytest.approx(expected, rel=0.05), name
        else:
            assert torch.equal(tensor, torch.full_like(tensor, float(name.endswith("weight")))), name


def test_other_runs_parameters_are_not_in_the_optimizer(capsys: pytest.CaptureFixture[str]) -> None:
    model = make(bias=True)
    model.transformer["h"].requires_grad_(False)

    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")

    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert optimizer.defaults["lr"] == 1e-3 and optimizer.defaults["betas"] == (0.9, 0.95)
    assert capsys.readouterr().out.endswith(
        "num decayed parameter tensors: 2, with 1,056 parameters\n"
        "num non-decayed parameter tensors: 2, with 64 parameters\n"
        "using fused AdamW: False\n"
    )


def test_width_must_be_divisible_by_heads() -> None:
    with pytest.raises(ConfigError, match=r"n_embd=32 must be divisible by n_head=3"):
        GPT(replace(TINY, n_head=3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_head": 0}, "n_head=0, wanted a whole number of 1 or more"),
        ({"n_layer": 1.0}, "n_layer=1.0, wanted a whole number of 1 or more"),
        ({"n_embd": -32}, "n_embd=-32, wanted a whole number of 1 or more"),
        ({"vocab_size": "17"}, "vocab_size='17', wanted a whole number of 1 or more"),
        ({"block_size": True}, "block_size=True, wanted a whole number of 1 or more"),
        ({"dropout": math.nan}, "dropout=nan, wanted a number from 0 to 1"),
        ({"dropout": "0"}, "dropout='0', wanted a number from 0 to 1"),
        ({"attention_type": "both"}, "attention_type='both', wanted causal or bidirectional"),
        ({"mode": ["language_model"]}, r"mode=['language_model'], wanted language_model or token_classifier or seq"),
    ],
)
def test_a_wrong_value_in_the_architecture_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        replace(TINY, **settings)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("position_encoding", ["absolute", "rotary"])
@pytest.mark.parametrize("mode", ["language_model", "token_classifier", "sequence_scorer"])
def test_the_config_counts_the_models_parameters(bias: bool, position_encoding: str, mode: str) -> None:
    config = replace(TINY, bias=bias, position_encoding=position_encoding, mode=mode, num_token_classes=5)

    assert config.num_params() == GPT(config).get_num_params(non_embedding=False)


@pytest.mark.parametrize("mode", ["language_model", "token_classifier", "sequence_scorer"])
def test_a_training_step_keeps_at_least_the_numbers_that_are_counted(mode: str) -> None:
    config = replace(TINY, mode=mode, num_token_classes=5, cls_token_id=0)
    model, idx = GPT(config), torch.zeros(3, TINY.block_size, dtype=torch.long)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    targets = torch.zeros(3) if mode == "sequence_scorer" else idx
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _, loss = model(idx, targets)

    assert loss is not None and sum(kept.values()) >= 4 * idx.numel() * config.kept_per_token()


def test_layer_norm_without_bias_normalizes_mean_and_variance() -> None:
    x = torch.randn(4, 8) * 3 + 1

    out = LayerNorm(8, bias=False)(x)

    std = (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(out, (x - x.mean(-1, keepdim=True)) / std)
    assert LayerNorm(8, bias=False).bias is None


# attention backends and positions


@variants
def test_manual_attention_agrees_with_sdpa(variant: dict[str, str]) -> None:
    idx, targets = tokens(), tokens().roll(-1, dims=1)
    fused, manual = make(**variant), make(**variant, attention="manual")

    torch.testing.assert_close(fused(idx, targets)[0], manual(idx, targets)[0], rtol=1e-4, atol=1e-5)
    fused(idx, targets)[1].backward()
    manual(idx, targets)[1].backward()
    for (name, ours), (_, theirs) in zip(fused.named_parameters(), manual.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("attend", [sdpa_attention, manual_attention])
def test_attention_averages_visible_values(attend: Any) -> None:
    """With equal scores, each position gets the mean of the values it attends to."""
    q, v = torch.zeros(1, 1, 4, 2), torch.arange(8.0).view(1, 1, 4, 2)

    causal, both = attend(q, q, v, True, 0.0), attend(q, q, v, False, 0.0)

    torch.testing.assert_close(causal[0, 0, :, 0], torch.tensor([0.0, 1.0, 2.0, 3.0]))
    torch.testing.assert_close(both[0, 0, :, 0], torch.full((4,), 3.0))


def test_manual_attention_applies_dropout() -> None:
    q, v = torch.zeros(1, 1, 64, 2), torch.ones(1, 1, 64, 2)

    assert torch.equal(manual_attention(q, q, v, False, 0.0).round(decimals=4), v)
    dropped = manual_attention(q, q, v, False, 0.5)
    assert dropped.std() > 0 and dropped.mean().item() == pytest.approx(1, abs=0.1)


needs_no_flash = pytest.mark.skipif(
    importlib.util.find_spec("flash_attn") is not None and torch.cuda.is_available(), reason="flash-attn can run here"
)


@needs_no_flash
def test_flash_falls_back_to_sdpa(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "coregpt"):
        fallback = make(attention="flash")

    assert torch.equal(fallback(tokens(), tokens())[0], make()(tokens(), tokens())[0])
    assert "attention=flash needs a CUDA device and `pip install flash-attn`; using sdpa instead" in caplog.messages


@needs_no_flash
def test_the_fallback_of_flash_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "coregpt"):
        make(attention="flash")

    assert len(caplog.messages) == 1


def test_rotary_scores_depend_only_on_distance() -> None:
    table = rotary_table(32, 8)
    q, k = torch.randn(8), torch.randn(8)
    queries, keys = (rotate(x.expand(1, 1, 32, 8), table)[0, 0] for x in (q, k))

    scores = queries @ keys.T  # (32, 32)

    for distance in (-5, 0, 1, 20):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    assert (scores.diagonal(1)[0] - scores.diagonal(2)[0]).abs() > 1e-3
    torch.testing.assert_close(queries.norm(dim=-1), q.norm().expand(32))


@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
def test_a_rotary_model_is_invariant_to_shifted_positions(kind: str) -> None:
    model, idx = make(position_encoding="rotary", attention_type=kind), tokens()
    before = model(idx, idx)[0]

    model.rotary = rotary_table(40, 16)[:, 24:]

    torch.testing.assert_close(model(idx, idx)[0], before, rtol=1e-4, atol=1e-4)
    model.rotary = rotary_table(40, 16)[:, ::2]
    assert (model(idx, idx)[0] - before).abs().max() > 1e-2


def test_rotary_rotates_position_p_by_p_radians() -> None:
    """Position p rotates the pair (first half, second half) of the first dimension by p radians."""
    table = rotary_table(4, 2)

    rotated = rotate(torch.tensor([1.0, 0.0]).expand(1, 1, 4, 2), table)[0, 0]

    angles = torch.arange(4.0)
    torch.testing.assert_close(rotated, torch.stack([angles.cos(), angles.sin()], dim=1))


@pytest.mark.parametrize("positions", ["absolute", "rotary"])
def test_the_order_of_tokens_matters(positions: str) -> None:
    model = make(position_encoding=positions)
    idx = torch.tensor([[3, 5, 7, 9]])

    assert (model(idx)[0] - model(idx[:, [1, 0, 2, 3]])[0]).abs().max() > 1e-3


# crop_block_size


@variants
def test_cropping_keeps_the_logits_of_the_first_positions(variant: dict[str, str]) -> None:
    model, idx = make(**variant), tokens(2, 8)
    before = model(idx, idx)[0]

    model.crop_block_size(8)

    assert model.config.block_size == 8
    assert torch.equal(model(idx, idx)[0], before)
    with pytest.raises(AssertionError):
        model(tokens(2, 9))
    if variant["position_encoding"] == "absolute":
        assert model.state_dict()["transformer.wpe.weight"].shape == (8, 32)
        assert model.transformer["wpe"].weight.requires_grad and model.transformer["wpe"].weight.is_leaf


def test_cropping_to_a_larger_block_size_is_refused() -> None:
    with pytest.raises(AssertionError):
        make().crop_block_size(17)


# generate


def test_generation_continues_the_prompt() -> None:
    model, prompt = make(), tokens(3, 5)

    out = model.generate(prompt, 4)

    assert out.shape == (3, 9) and torch.equal(out[:, :5], prompt)
    assert out.min() >= 0 and out.max() < 17


def test_generation_uses_the_last_block_of_a_long_prompt() -> None:
    model, prompt = make(), tokens(1, 40)

    torch.manual_seed(0)
    long = model.generate(prompt, 12)
    torch.manual_seed(0)
    short = model.generate(prompt[:, -16:], 12)

    assert torch.equal(long[:, -12:], short[:, -12:])


def test_top_k_1_is_greedy() -> None:
    model, expected = make(), tokens(2, 5)
    out = model.generate(expected, 14, top_k=1)

    for _ in range(14):
        best = model(expected[:, -16:])[0][:, -1].argmax(dim=-1, keepdim=True)
        expected = torch.cat([expected, best], dim=1)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1e-40, 1e-30, 1e-4])
def test_temperature_0_is_greedy_and_small_ones_do_not_overflow(temperature: float, dtype: torch.dtype) -> None:
    model, prompt = make().to(dtype), tokens(2, 5)
    expected = model.generate(prompt, 14, top_k=1)
    for seed in range(2):
        torch.manual_seed(seed)
        assert torch.equal(model.generate(prompt, 14, temperature=temperature), expected)


def test_top_k_0_samples_from_all_tokens() -> None:
    model, outputs = make(), []
    for top_k in (0, None):
        torch.manual_seed(3)
        outputs.append(model.generate(tokens(2, 5), 14, top_k=top_k))
    assert torch.equal(*outputs)


def test_top_k_excludes_unlikely_tokens() -> None:
    model, prompt = make(), tokens(1, 4).repeat(500, 1)
    likely = set(model(prompt[:1])[0][0, -1].topk(3).indices.tolist())

    assert set(model.generate(prompt, 1, temperature=5.0, top_k=3)[:, -1].tolist()) == likely
    assert len(set(model.generate(prompt, 1, temperature=5.0, top_k=1000)[:, -1].tolist())) > 3


def test_a_low_temperature_sharpens() -> None:
    model, prompt = make(), tokens(1, 4).repeat(300, 1)

    cold, hot = (len(set(model.generate(prompt, 1, temperature=t)[:, -1].tolist())) for t in (1e-3, 10.0))
    assert cold == 1 and hot > 10


# torch.compile


@pytest.mark.parametrize("variant", [*VARIANTS, {"attention": "manual"}], ids=variant_id)
def test_compiles_without_graph_breaks(variant: dict[str, str]) -> None:
    model, idx = make(**variant), tokens()
    expected, expected_loss = model(idx, idx)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # torch itself may warn while it compiles
        compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
        logits, loss = compiled(idx, idx)
        last, none = compiled(idx)

    assert none is None
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(loss, expected_loss)
    torch.testing.assert_close(last, model(idx)[0])


# from_pretrained


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Import transformers as on a machine without network and without cached weights."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports warn
        return pytest.importorskip("transformers")


@pytest.fixture
def pretrained(offline: Any, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """Save a Hugging Face GPT-2 with large random weights; return its folder and its logits for `tokens`."""
    torch.manual_seed(3)
    shape = dict(n_layer=2, n_head=2, n_embd=32, n_positions=16, vocab_size=23, bos_token_id=0, eos_token_id=0)
    exact = {"activation_function": "gelu"}  # nanoGPT uses the exact GELU, OpenAI the tanh approximation
    theirs = offline.GPT2LMHeadModel(offline.GPT2Config(**shape, **exact)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.3)
    theirs.save_pretrained(tmp_path / "gpt2-tiny")
    return tmp_path / "gpt2-tiny", theirs(tokens(vocab_size=23)).logits.detach()


def test_pretrained_weights_give_hugging_faces_logits(pretrained: tuple[Path, torch.Tensor]) -> None:
    path, expected = pretrained

    model = GPT.from_pretrained(str(path)).eval()

    idx = tokens(vocab_size=23)
    logits = model(idx, idx)[0]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    shape = model.config
    assert (shape.n_layer, shape.n_head, shape.n_embd, shape.block_size, shape.vocab_size) == (2, 2, 32, 16, 23)
    assert shape.bias and shape.dropout == 0


def test_the_function_of_openais_weights_is_named_and_can_be_chosen(
    offline: Any, pretrained: tuple[Path, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    path, idx = str(pretrained[0]), tokens(vocab_size=23)
    caplog.set_level("INFO", "coregpt")
    GPT.from_pretrained(path)
    assert caplog.messages == []  # it was trained with gelu
    config = pretrained[0] / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"gelu_new"'))
    expected = offline.GPT2LMHeadModel.from_pretrained(path).eval()(idx).logits

    approximate = GPT.from_pretrained(path, {"activation": "gelu_tanh"}).eval()
    assert caplog.messages == []
    exact = GPT.from_pretrained(path).eval()
    assert caplog.messages == [
        f"{path}: activation=gelu_tanh computes the function that these weights were trained with"
    ]
    assert (approximate(idx, idx)[0] - expected).abs().max() < 1e-5 < (exact(idx, idx)[0] - expected).abs().max() / 3


def test_dropout_and_attention_can_be_overridden(
    pretrained: tuple[Path, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    model = GPT.from_pretrained(str(pretrained[0]), {"dropout": 0.25, "attention": "manual"})

    assert model.config.dropout == 0.25 and model.config.attention == "manual"
    assert capsys.readouterr().out == (
        f"loading weights from pretrained gpt: {pretrained[0]}\n"
        "forcing vocab_size=23, block_size=16, bias=True\n"
        "overriding dropout rate to 0.25\n"
        "number of parameters: 0.03M\n"
    )
    with pytest.raises(AssertionError, match="n_layer"):
        GPT.from_pretrained(str(pretrained[0]), {"n_layer": 3})


def test_weights_that_are_not_those_of_the_config_are_refused(pretrained: tuple[Path, torch.Tensor]) -> None:
    """transformers draws missing ones at random, and unties two matrices that differ."""
    from safetensors.torch import load_file, save_file

    path, file = str(pretrained[0]), pretrained[0] / "model.safetensors"
    weights = load_file(file)
    name = "transformer.h.1.mlp.c_fc.weight"
    for change, message in (
        ({"lm_head.weight": torch.zeros(23, 32)}, "have an untied head, wanted lm_head.weight equal to wte"),
        ({name: None}, f"lack {name}: download the model again"),
        ({name: torch.zeros(3, 3)}, "are damaged, or of other sizes than config.json says"),
    ):
        kept = {key: tensor for key, tensor in {**weights, **change}.items() if tensor is not None}
        save_file(kept, file, {"format": "pt"})
        with pytest.raises(ConfigError, match=f"the weights of {path!r} {message}"):
            GPT.from_pretrained(path)
    file.write_bytes(b"cut")
    with pytest.raises(ConfigError, match="are damaged"):
        GPT.from_pretrained(path)


@pytest.mark.parametrize("name", ["no/such-gpt2", "nowhere"])
def test_unavailable_pretrained_weights_are_reported(offline: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot load the weights of '{name}' from the hub or a folder"):
        GPT.from_pretrained(name)


def test_the_error_names_the_missing_transformers_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)

    with pytest.raises(ConfigError, match=r"pip install -e '\.\[hf\]'"):
        GPT.from_pretrained("gpt2")


def test_the_sizes_of_the_four_gpt2_models() -> None:
    for name, millions in (("gpt2", 124), ("gpt2-medium", 354), ("gpt2-large", 774), ("gpt2-xl", 1557)):
        sizes = model_file._gpt2_sizes(name, None)
        with torch.device("meta"):
            model = GPT(GPTConfig(**sizes))
        assert model.get_num_params(non_embedding=False) // 10**6 == millions
        assert sizes["vocab_size"] == 50257 and sizes["block_size"] == 1024 and sizes["bias"]


def test_the_mlp_uses_the_exact_gelu() -> None:
    """GELU is x times the normal CDF at x; the tanh approximation differs by up to 5e-4."""
    mlp = MLP(GPTConfig(n_embd=4, bias=False)).double()
    x = torch.linspace(-3, 3, 48, dtype=torch.float64).view(12, 4)
    hidden = x @ mlp.c_fc.weight.T * 8  # includes the values where the approximation is worst
    mlp.c_fc.weight.data *= 8
    expected = hidden * torch.special.ndtr(hidden)

    torch.testing.assert_close(mlp(x), expected @ mlp.c_proj.weight.T, rtol=1e-9, atol=1e-9)


def test_rotary_frequencies_are_powers_of_ten_thousand() -> None:
    cosines, sines = rotary_table(4, 4)  # each (4 positions, D = 4): two frequencies, 1 and 1/100, twice

    assert cosines[3].tolist() == pytest.approx([math.cos(3), math.cos(0.03)] * 2)
    assert sines[3].tolist() == pytest.approx([math.sin(3), math.sin(0.03)] * 2)
