"""ModelInitializer: new, resumed, pretrained and transferred models."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.checkpoint.format import load_checkpoint
from core.errors import CheckpointError, ConfigError
from core.machine import memory
from core.model_initializer import LoadedModel, ModelInitializer, ModelSource
from model import GPT, GPTConfig

CPU = torch.device("cpu")
TINY = dict(n_layer=2, n_head=2, n_embd=32, block_size=16, bias=False, dropout=0.0, vocab_size=17)


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def initializer(lines: list[str]) -> ModelInitializer:
    return ModelInitializer(GPT, GPTConfig, CPU, say=lines.append)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ckpt.pt"


def save(path: Path, model: nn.Module, **model_args: Any) -> dict[str, torch.Tensor]:
    """Save a model with its arguments, and return its weights."""
    torch.save({"model": model.state_dict(), "model_args": TINY | model_args, "iter_num": 3}, path)
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(model: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return list(own) == list(state) and all(torch.equal(own[name], state[name]) for name in own)


def resuming(initializer: ModelInitializer, path: Path) -> ModelSource:
    return partial(initializer.resume_model_from_checkpoint, load_checkpoint(path))


# from scratch


def test_a_model_from_scratch_makes_the_same_random_draws_as_its_class(
    initializer: ModelInitializer, lines: list[str]
) -> None:
    torch.manual_seed(5)
    expected = GPT(GPTConfig(**TINY)).state_dict()  # type: ignore[arg-type]
    torch.manual_seed(5)
    model, model_args = initializer.initialize(initializer.create_model_from_scratch, TINY)

    assert equal(model, expected)
    assert (model_args, lines) == (TINY, [])


def test_without_a_vocabulary_the_model_gets_gpt2s(initializer: ModelInitializer, lines: list[str]) -> None:
    given = TINY | {"vocab_size": None}
    model, model_args = initializer.initialize(initializer.create_model_from_scratch, given)

    assert model.config.vocab_size == model_args["vocab_size"] == 50304
    assert given["vocab_size"] is None
    assert lines == ["defaulting to vocab_size of GPT-2 to 50304 (50257 rounded up for efficiency)"]


def test_unsaved_arguments_reach_the_model_and_not_the_checkpoint() -> None:
    initializer = ModelInitializer(GPT, GPTConfig, CPU, unsaved_args={"attention": "manual"})
    model, model_args = initializer.create_model_from_scratch(TINY)

    assert model.config.attention == "manual"
    assert model_args == TINY


def test_any_class_with_nanogpts_constructor_can_be_initialized() -> None:
    class Config:
        def __init__(self, **model_args: Any) -> None:
            self.model_args = model_args

    class Fork(nn.Module):
        def __init__(self, config: Config) -> None:
            super().__init__()
            self.config = config

    model, _ = ModelInitializer(Fork, Config, CPU).create_model_from_scratch(TINY | {"window": 4})

    assert isinstance(model, Fork) and model.config.model_args == TINY | {"window": 4}


# resumed


def test_a_resume_takes_all_but_dropout_from_the_checkpoint(
    initializer: ModelInitializer, path: Path, tiny_model: GPT, lines: list[str]
) -> None:
    state = save(path, tiny_model)
    given = dict(n_layer=5, n_head=1, n_embd=8, block_size=TINY["block_size"], bias=True, dropout=0.3, vocab_size=None)

    model, model_args = initializer.initialize(resuming(initializer, path), given)

    assert equal(model, state)
    assert model_args == TINY | {"dropout": 0.3}
    assert given["n_layer"] == 5  # the given options are not changed
    assert (model.config.dropout, model.transformer["drop"].p) == (0.3, 0.3)
    assert lines == []  # train.py prints nanoGPT's line


def test_arguments_that_only_the_checkpoint_has_are_kept(initializer: ModelInitializer, path: Path) -> None:
    rotary = GPT(GPTConfig(**TINY, position_encoding="rotary"))  # type: ignore[arg-type]
    state = save(path, rotary, position_encoding="rotary")

    model, model_args = initializer.initialize(resuming(initializer, path), TINY)

    assert equal(model, state)
    assert model_args == TINY | {"position_encoding": "rotary"}


def test_a_smaller_block_size_crops_the_resumed_model(
    initializer: ModelInitializer, path: Path, tiny_model: GPT
) -> None:
    state = save(path, tiny_model)

    model, model_args = initializer.initialize(resuming(initializer, path), TINY | {"block_size": 6})

    state["transformer.wpe.weight"] = state["transformer.wpe.weight"][:6]
    assert equal(model, state)
    assert model.config.block_size == model_args["block_size"] == 6
    assert model(torch.zeros(1, 6, dtype=torch.long))[0].shape == (1, 1, 17)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_weights_of_a_compiled_or_wrapped_model_are_resumed(
    initializer: ModelInitializer, tiny_model: GPT, prefix: str
) -> None:
    state = tiny_model.state_dict()
    checkpoint = {"model": {prefix + name: value for name, value in state.items()}, "model_args": TINY}

    assert equal(initializer.resume_model_from_checkpoint(checkpoint, TINY).model, state)


@pytest.mark.parametrize(
    "lacking", [["vocab_size"], ["bias"], ["n_layer", "n_embd", "block_size", "vocab_size", "bias"]]
)
@pytest.mark.parametrize("bias", [False, True])
def test_arguments_that_the_checkpoint_lacks_are_those_of_its_weights(
    initializer: ModelInitializer, tiny_model: GPT, lacking: list[str], bias: bool
) -> None:
    """The defaults of the class are not: 50304 tokens, and biases."""
    state = GPT(replace(tiny_model.config, bias=bias)).state_dict()
    saved = {key: value for key, value in TINY.items() if key not in lacking and key != "bias"}
    given = {"bias": bias} if "bias" not in lacking else {}

    loaded = initializer.resume_model_from_checkpoint({"model": state, "model_args": saved | given}, dict(TINY))

    assert equal(loaded.model, state)
    assert loaded.model_args == TINY | {"bias": bias}  # all of nanoGPT's, as the next checkpoint has them


def test_a_vocab_size_of_none_counts_as_lacking(initializer: ModelInitializer, tiny_model: GPT) -> None:
    checkpoint = {"model": tiny_model.state_dict(), "model_args": TINY | {"vocab_size": None}}

    assert initializer.resume_model_from_checkpoint(checkpoint, dict(TINY)).model_args == TINY


def test_a_checkpoint_without_n_head_is_refused(initializer: ModelInitializer, tiny_model: GPT) -> None:
    """The class has a default, which would be another network."""
    saved = {key: value for key, value in TINY.items() if key != "n_head"}

    with pytest.raises(CheckpointError, match=r"lack n_head, which the weights do not show: .*\['n_head'\]"):
        initializer.resume_model_from_checkpoint({"model": tiny_model.state_dict(), "model_args": saved}, dict(TINY))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_float32(
    initializer: ModelInitializer, tiny_model: GPT, dtype: torch.dtype
) -> None:
    state = {name: tensor.to(dtype) for name, tensor in tiny_model.state_dict().items()}

    model = initializer.resume_model_from_checkpoint({"model": state, "model_args": TINY}, dict(TINY)).model

    assert equal(model, {name: tensor.float() for name, tensor in state.items()})


@pytest.mark.parametrize("left_out", ["lm_head.weight", "transformer.wte.weight"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "model._orig_mod.module."])
def test_masks_prefixes_and_a_tied_name_left_out_do_not_matter(
    initializer: ModelInitializer, path: Path, tiny_model: GPT, left_out: str, prefix: str
) -> None:
    own = tiny_model.state_dict()
    mask = torch.ones(16, 16).tril().view(1, 1, 16, 16)
    state = {name: tensor for name, tensor in own.items() if name != left_out}
    state |= {f"transformer.h.{layer}.attn.bias": mask for layer in range(2)}
    torch.save({"model": {prefix + name: tensor for name, tensor in state.items()}, "model_args": TINY}, path)

    assert equal(resuming(initializer, path)(dict(TINY)).model, own)
    target = GPT(tiny_model.config)
    initializer.setup_transfer_learning(target, path)
    assert equal(target, own)


def test_a_fork_whose_model_saves_the_mask_resumes_files_without_it(tiny_model: GPT) -> None:
    class Fork(GPT):
        def __init__(self, config: GPTConfig) -> None:
            super().__init__(config)
            for block in self.transformer["h"]:  # type: ignore[attr-defined]
                block.attn.register_buffer("bias", torch.ones(16, 16).tril().view(1, 1, 16, 16))

    initializer = ModelInitializer(Fork, GPTConfig, CPU)
    checkpoint = {"model": tiny_model.state_dict(), "model_args": TINY}

    forked = initializer.resume_model_from_checkpoint(checkpoint, dict(TINY)).model

    assert len(forked.state_dict()) == len(tiny_model.state_dict()) + 2
    assert equal(initializer.resume_model_from_checkpoint({**checkpoint, "model": forked.state_dict()}, TINY).model,
                 forked.state_dict())  # fmt: skip


def test_an_untied_head_is_refused_by_a_resume_and_by_a_transfer(
    initializer: ModelInitializer, path: Path, tiny_model: GPT
) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    state["lm_head.weight"] += 0.1
    torch.save({"model": state, "model_args": TINY}, path)

    for load in (resuming(initializer, path), lambda _: initializer.setup_transfer_learning(tiny_model, path)):
        with pytest.raises(CheckpointError, match=r"wte\.weight and lm_head\.weight differ in the checkpoint"):
            load(dict(TINY))

    target = WithHead(tiny_model.config)  # a new head: the old one is not needed
    initializer.setup_transfer_learning(target, path)
    assert torch.equal(target.transformer["wte"].weight, state["transformer.wte.weight"])


def test_a_fork_that_does_not_tie_keeps_both_matrices(tiny_model: GPT) -> None:
    class Fork(GPT):
        def __init__(self, config: GPTConfig) -> None:
            super().__init__(config)
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    initializer = ModelInitializer(Fork, GPTConfig, CPU)
    state = initializer.create_model_from_scratch(TINY).model.state_dict()

    assert equal(initializer.resume_model_from_checkpoint({"model": state, "model_args": TINY}, TINY).model, state)


@pytest.mark.parametrize(
    ("args", "names", "message"),
    [
        ({"dim": 4, "n_layers": 1, "n_heads": 1}, ["tok_embeddings.weight"], r"is a model of llama2\.c"),
        (TINY, ["transformer.h.0.attn.c_attn.weight"], "is a Hugging Face GPT-2, whose matrices are transposed"),
    ],
)
def test_weights_of_another_kind_of_model_are_named(
    initializer: ModelInitializer, path: Path, tiny_model: GPT, args: Any, names: list[str], message: str
) -> None:
    state = {name: torch.ones(32, 96) for name in names}
    torch.save({"model": state, "model_args": args}, path)

    with pytest.raises(CheckpointError, match=message):
        resuming(initializer, path)(dict(TINY))
    with pytest.raises(CheckpointError, match=message):
        initializer.setup_transfer_learning(tiny_model, path)


def test_weights_that_do_not_fit_are_named(initializer: ModelInitializer, tiny_model: GPT) -> None:
    state = tiny_model.state_dict()
    state["transformer.ln_f.weight"] = torch.ones(31)
    del state["transformer.wpe.weight"]
    state["value_head.weight"] = torch.ones(1)

    with pytest.raises(CheckpointError) as error:
        initializer.resume_model_from_checkpoint({"model": state, "model_args": TINY}, dict(TINY))

    assert str(error.value) == (
        "the checkpoint does not fit the model: transformer.wpe.weight is missing; value_head.weight is not part of "
        "this model; transformer.ln_f.weight has shape (31,), wanted (32,)"
    )


def test_whole_numbers_are_no_weights(initializer: ModelInitializer, path: Path, tiny_model: GPT) -> None:
    """They are quantized, and their factors are elsewhere; torch would take them as they are."""
    state = tiny_model.state_dict()
    before = state["transformer.wpe.weight"].clone()
    checkpoint = {"model": {**state, "transformer.wpe.weight": before.mul(9).to(torch.int8)}, "model_args": TINY}

    with pytest.raises(
        CheckpointError, match=r"model: transformer.wpe.weight is of type torch.int8, wanted torch.float32"
    ):
        initializer.resume_model_from_checkpoint(checkpoint, dict(TINY))
    torch.save(checkpoint, path)
    assert "transformer.wpe.weight" in initializer.setup_transfer_learning(tiny_model, path)
    assert torch.equal(tiny_model.state_dict()["transformer.wpe.weight"], before)


def test_the_error_names_at_most_five_weights_that_do_not_fit(initializer: ModelInitializer, tiny_model: GPT) -> None:
    checkpoint = {"model": tiny_model.state_dict(), "model_args": TINY | {"n_embd": 16}}

    with pytest.raises(CheckpointError, match=r"(.* has shape .*; ){4}.* wanted \(.*\) and 11 more$"):
        initializer.resume_model_from_checkpoint(checkpoint, dict(TINY))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_layer": 10**6}, "do not fit its weights: they say n_layer=1000000, the weights have 2"),
        ({"vocab_size": 2**31}, "do not fit its weights: they say vocab_size=2147483648, the weights have 17"),
        ({"n_head": 0}, "do not fit this model.py: n_head=0, wanted a whole number of 1 or more"),
        ({"n_head": 3}, "do not fit this model.py: n_embd=32 must be divisible by n_head=3"),
        ({"block_size": -16}, "do not fit this model.py: block_size=-16, wanted a whole number of 1 or more"),
    ],
)
def test_damaged_model_args_are_named_before_a_model_is_made(
    wrong: dict[str, int], message: str, initializer: ModelInitializer, tiny_model: GPT
) -> None:
    checkpoint = {"model": tiny_model.state_dict(), "model_args": TINY | wrong}

    with pytest.raises(CheckpointError, match=re.escape(f"the checkpoint's model_args {message}") + "$"):
        initializer.resume_model_from_checkpoint(checkpoint, {})


def test_the_arguments_of_another_model_are_named_with_what_to_do(
    initializer: ModelInitializer, tiny_model: GPT
) -> None:
    checkpoint = {"model": tiny_model.state_dict(), "model_args": TINY | {"n_kv_head": 2, "norm": "rms"}}

    with pytest.raises(CheckpointError) as fork:
        initializer.resume_model_from_checkpoint(checkpoint, {})
    with pytest.raises(CheckpointError) as line:
        initializer.resume_model_from_checkpoint({**checkpoint, "training_context": {}}, {})

    assert str(fork.value) == (
        "the checkpoint is of another model.py, whose GPTConfig has n_kv_head, norm, which this one lacks: put the "
        "model.py that it was trained with next to train.py"
    )
    assert str(line.value).endswith("convert it with `python -m tools.convert PATH`")
    assert "n_kv_head" in str(line.value)


@pytest.mark.parametrize(("trains", "needed"), [(True, 25_792 * 16), (False, 25_792 * 4)])
def test_a_new_model_needs_memory_for_what_is_trained(
    trains: bool, needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "total_memory", lambda device: needed)
    initializer = ModelInitializer(GPT, GPTConfig, CPU, trains=trains)
    initializer.create_model_from_scratch(TINY)
    monkeypatch.setattr(memory, "total_memory", lambda device: needed - 1)

    with pytest.raises(ConfigError, match=r"^the model's 25,792 parameters"):
        initializer.create_model_from_scratch(TINY)


def test_a_model_with_a_submodule_called_module_is_resumed() -> None:
    class Fork(nn.Module):
        def __init__(self, config: GPTConfig) -> None:
            super().__init__()
            self.config = config
            self.head = nn.ModuleDict({"module": nn.Linear(2, 2)})

    initializer = ModelInitializer(Fork, GPTConfig, CPU)
    state = initializer.create_model_from_scratch(TINY).model.state_dict()

    assert equal(initializer.resume_model_from_checkpoint({"model": state, "model_args": TINY}, TINY).model, state)


# pretrained


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("scartch", "; did you mean scratch?"),
        ("resum", "; did you mean resume?"),
        ("Resume", "; did you mean resume?"),
        ("gpt2xl", "; did you mean gpt2-xl?"),
        ("llama", ""),
        ("no/such/folder", ""),
        ("", ""),
    ],
)
def test_an_unknown_init_from_is_refused(initializer: ModelInitializer, name: str, near: str) -> None:
    with pytest.raises(ConfigError) as error:
        initializer.load_pretrained(name, TINY)

    assert str(error.value) == (
        f"init_from={name!r} is not known: wanted scratch, resume, gpt2, gpt2-medium, gpt2-large, gpt2-xl, "
        f"hf:NAME, or a folder that holds a Hugging Face GPT-2{near}"
    )


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", 'activation_function "relu", wanted gelu or gelu_new'),
        ("adapter_config.json", "a Hugging Face GPT-2: this one holds an adapter alone, without its model"),
        ("model.safetensors", "a Hugging Face GPT-2: this one has no config.json"),
    ],
)
def test_a_folder_of_another_model_is_refused_before_it_is_loaded(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / file).write_text('{"model_type": "gpt2", "activation_function": "relu"}')

    with pytest.raises(ConfigError, match=message):  # a model class of None cannot be loaded
        ModelInitializer(None, GPTConfig, CPU).load_pretrained(str(tmp_path), TINY)


def test_a_folder_goes_before_the_model_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in transformers."""
    monkeypatch.chdir(tmp_path)
    Path("gpt2").mkdir()
    Path("gpt2", "config.json").write_text('{"model_type": "llama"}')

    with pytest.raises(ConfigError, match="model_type 'llama', wanted 'gpt2'"):
        ModelInitializer(None, GPTConfig, CPU).load_pretrained("gpt2", TINY)


def test_a_pretrained_model_has_its_own_shape_and_is_cropped(lines: list[str]) -> None:
    """`from_pretrained` returns a tiny model here, for any name of a GPT-2."""
    calls = []

    class Pretrained(GPT):
        @classmethod
        def from_pretrained(cls, model_type: str, override_args: dict[str, Any] | None = None) -> GPT:
            calls.append((model_type, override_args))
            return GPT(GPTConfig(**TINY | {"bias": True} | override_args))  # type: ignore[arg-type, operator]

    given = dict(n_layer=12, n_head=12, n_embd=768, block_size=6, bias=False, dropout=0.1, vocab_size=None)
    given["activation"] = "gelu_tanh"
    initializer = ModelInitializer(Pretrained, GPTConfig, CPU, lines.append, {"attention": "manual"})

    model, model_args = initializer.initialize(partial(initializer.load_pretrained, "gpt2"), given)

    assert calls == [("gpt2", {"dropout": 0.1, "activation": "gelu_tanh", "attention": "manual"})]
    assert model_args == TINY | {"bias": True, "dropout": 0.1, "activation": "gelu_tanh", "block_size": 6}
    assert model.config.block_size == 6
    assert lines == []  # sample.py prints none


@pytest.mark.parametrize(("block_size", "kept"), [(4, 4), (16, 16), (99, 16)])
def test_only_a_smaller_block_size_crops(
    initializer: ModelInitializer, tiny_model: GPT, block_size: int, kept: int
) -> None:
    positions = tiny_model.transformer["wpe"].weight

    model, model_args = initializer.crop_block_size(LoadedModel(tiny_model, TINY), block_size)

    assert model is tiny_model and TINY["block_size"] == 16
    assert tiny_model.config.block_size == model_args["block_size"] == kept
    assert torch.equal(tiny_model.transformer["wpe"].weight, positions[:kept])
    assert (kept == 16) == (tiny_model.transformer["wpe"].weight is positions)


# transfer


class WithHead(nn.Module):
    """The transformer of a GPT with another head."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.transformer = GPT(config).transformer
        self.head = nn.Linear(config.n_embd, 3)


def test_transfer_copies_the_transformer_and_keeps_new_heads(
    initializer: ModelInitializer, path: Path, tiny_model: GPT
) -> None:
    source = save(path, tiny_model)
    target = WithHead(tiny_model.config)
    head = target.head.weight.detach().clone()

    skipped = initializer.setup_transfer_learning(target, path)

    assert skipped == ["lm_head.weight"]
    assert torch.equal(target.head.weight, head)
    body = {name: value for name, value in target.state_dict().items() if name.startswith("transformer.")}
    assert len(body) == len(source) - 1
    assert all(torch.equal(value, source[name]) for name, value in body.items())


def test_a_new_head_is_kept_even_if_the_checkpoint_has_its_name(
    initializer: ModelInitializer, path: Path, tiny_model: GPT
) -> None:
    save(path, tiny_model)
    target = WithHead(tiny_model.config)
    target.lm_head = nn.Linear(32, 17, bias=False)
    fresh = target.lm_head.weight.detach().clone()

    assert initializer.setup_transfer_learning(target, path) == ["lm_head.weight"]
    assert torch.equal(target.lm_head.weight, fresh)


def test_transfer_to_a_larger_vocabulary_copies_the_known_rows(
    initializer: ModelInitializer, path: Path, tiny_model: GPT
) -> None:
    source = save(path, tiny_model)["transformer.wte.weight"]
    target = WithHead(replace(tiny_model.config, vocab_size=20))
    fresh = target.transformer["wte"].weight.detach().clone()

    assert initializer.setup_transfer_learning(target, path) == ["lm_head.weight"]

    rows = target.transformer["wte"].weight
    assert torch.equal(rows[:17], source) and torch.equal(rows[17:], fresh[17:])
    assert rows.requires_grad


@pytest.mark.parametrize("block_size", [8, 24])
def test_transfer_to_another_block_size_copies_the_common_positions(
    initializer: ModelInitializer, path: Path, tiny_model: GPT, block_size: int
) -> None:
    source = save(path, tiny_model)["transformer.wpe.weight"]
    target = WithHead(replace(tiny_model.config, block_size=block_size))
    fresh = target.transformer["wpe"].weight.detach().clone()

    assert initializer.setup_transfer_learning(target, path) == ["lm_head.weight"]

    known = min(block_size, 16)
    positions = target.transformer["wpe"].weight
    assert torch.equal(positions[:known], source[:known]) and torch.equal(positions[known:], fresh[known:])


def test_transfer_logs_the_tensors_not_copied_and_the_new_ones(
    initializer: ModelInitializer, path: Path, tiny_model: GPT, caplog: pytest.LogCaptureFixture
) -> None:
    """The model lacks a layer of the checkpoint, and the checkpoint lacks biases of the model."""
    save(path, tiny_model)
    target = WithHead(replace(tiny_model.config, n_layer=1, bias=True))
    with caplog.at_level("INFO", logger="coregpt"):
        skipped = initializer.setup_transfer_learning(target, path)

    assert skipped == [*(name for name in tiny_model.state_dict() if ".h.1." in name), "lm_head.weight"]
    (note,) = caplog.messages
    assert note == (
        f"transfer: 9 tensors from {path}; not copied: {', '.join(skipped[:5])} and 2 more; new: "
        "transformer.h.0.ln_1.bias, transformer.h.0.attn.c_attn.bias, transformer.h.0.attn.c_proj.bias, "
        "transformer.h.0.ln_2.bias, transformer.h.0.mlp.c_fc.bias and 4 more"
    )


def test_a_tied_head_is_copied_with_the_token_embedding(
    initializer: ModelInitializer, path: Path, tiny_model: GPT, caplog: pytest.LogCaptureFixture
) -> None:
    source = save(path, tiny_model)["transformer.wte.weight"]
    target = GPT(replace(tiny_model.config, vocab_size=20))
    with caplog.at_level("INFO", logger="coregpt"):
        initializer.setup_transfer_learning(target, path)

    assert target.lm_head.weight is target.transformer["wte"].weight
    assert torch.equal(target.lm_head.weight[:17], source)
    assert caplog.messages[0].endswith("not copied: lm_head.weight; new: nothing")


def test_transfer_ignores_the_prefixes_of_wrapped_models(
    initializer: ModelInitializer, path: Path, tiny_model: GPT
) -> None:
    state = {f"module._orig_mod.{name}": value for name, value in tiny_model.state_dict().items()}
    torch.save({"model": state, "model_args": TINY}, path)
    target = WithHead(tiny_model.config)

    assert initializer.setup_transfer_learning(target, path) == ["lm_head.weight"]
    assert torch.equal(target.transformer["ln_f"].weight, tiny_model.transformer["ln_f"].weight)
    assert torch.equal(target.transformer["wte"].weight, tiny_model.transformer["wte"].weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": 16}, "has width n_embd=32, the model 16: set n_embd=32"),
        ({"n_head": 4}, "has n_head=2, the model 4: set n_head=2"),
        ({"vocab_size": 11}, "has 17 tokens, the model only 11: prepare the data set with the vocabulary that"),
    ],
)
def test_transfer_from_a_model_of_another_kind_is_refused(
    initializer: ModelInitializer, path: Path, tiny_model: GPT, changes: dict[str, Any], message: str
) -> None:
    save(path, tiny_model)
    target = GPT(replace(tiny_model.config, **changes))
    before = {name: value.clone() for name, value in target.state_dict().items()}

    with pytest.raises(CheckpointError, match=message):
        initializer.setup_transfer_learning(target, path)

    assert equal(target, before)


def test_transfer_to_another_position_encoding_is_logged(
    initializer: ModelInitializer, path: Path, tiny_model: GPT, caplog: pytest.LogCaptureFixture
) -> None:
    rotary = GPT(replace(tiny_model.config, position_encoding="rotary"))
    save(path, rotary, position_encoding="rotary")

    initializer.setup_transfer_learning(GPT(replace(tiny_model.config, position_encoding="rotary")), path)
    assert caplog.messages == []
    initializer.setup_transfer_learning(tiny_model, path)
    assert caplog.messages == [
        f"transfer: {path} has rotary positions, the model absolute: much has to be learnt again"
    ]


def test_transfer_needs_a_checkpoint_and_a_model_with_token_embeddings(
    initializer: ModelInitializer, path: Path, tiny_model: GPT
) -> None:
    with pytest.raises(CheckpointError, match=r"^no checkpoint at .*ckpt\.pt: give the file of a run"):
        initializer.setup_transfer_learning(tiny_model, path)
    torch.save({"model": {"head.weight": torch.ones(3)}, "model_args": TINY}, path)
    with pytest.raises(CheckpointError, match=r"ckpt\.pt has no transformer\.wte\.weight: nothing to start from"):
        initializer.setup_transfer_learning(tiny_model, path)
    save(path, tiny_model)
    with pytest.raises(CheckpointError, match=r"^the model has no transformer\.wte\.weight"):
        initializer.setup_transfer_learning(nn.Linear(3, 3), path)


# a second model


def test_a_second_model_is_frozen_and_in_evaluation_mode(
    initializer: ModelInitializer, path: Path, tiny_model: GPT
) -> None:
    with_dropout = GPT(replace(tiny_model.config, dropout=0.5))
    state = save(path, with_dropout, dropout=0.5)

    model, options = initializer.load_frozen(path, "language_model")

    assert equal(model, state) and options == {}
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    tokens = torch.randint(17, (2, 9))
    assert torch.equal(model(tokens)[0], model(tokens)[0])


def test_a_second_model_of_another_kind_is_refused(initializer: ModelInitializer, path: Path, tiny_model: GPT) -> None:
    save(path, tiny_model)

    with pytest.raises(CheckpointError, match=r"ckpt\.pt is a language_model, wanted a sequence_scorer"):
        initializer.load_frozen(path, "sequence_scorer")


# compiled and wrapped


def test_a_model_is_wrapped_and_not_compiled_by_default(
    initializer: ModelInitializer, tiny_model: GPT, lines: list[str]
) -> None:
    wrapped = initializer.compile_and_wrap_model(tiny_model, compile=False, wrap=nn.Sequential)

    assert isinstance(wrapped, nn.Sequential) and wrapped[0] is tiny_model
    assert lines == []


def test_a_model_is_compiled_then_wrapped(
    initializer: ModelInitializer, tiny_model: GPT, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The eager backend needs no C++ compiler. Checking whether the machine can compile draws no random number."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend="eager"))
    generator = torch.get_rng_state()

    wrapped = initializer.compile_and_wrap_model(tiny_model, compile=True, wrap=nn.Sequential)

    assert torch.equal(torch.get_rng_state(), generator)
    assert wrapped[0]._orig_mod is tiny_model  # type: ignore[union-attr]
    assert lines == ["compiling the model... (takes a ~minute)"]
    tokens = torch.randint(17, (2, 16))
    torch.testing.assert_close(wrapped(tokens)[0], tiny_model(tokens)[0])


def test_on_a_machine_that_cannot_compile_the_model_is_only_wrapped(
    initializer: ModelInitializer,
    tiny_model: GPT,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_compiler(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler found")

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend=no_compiler))
    with caplog.at_level("INFO", logger="coregpt"):
        wrapped = initializer.compile_and_wrap_model(tiny_model, compile=True, wrap=nn.Sequential)

    assert wrapped[0] is tiny_model  # type: ignore[index]
    assert lines == []
    (note,) = caplog.messages
    assert note == "compile: not possible on this machine (BackendCompilerFailed), training without it"
