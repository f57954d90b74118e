"""Checkpoint files: safe loading, parameter names of wrapped models, checksums and identity."""

import enum
import os
import pickle
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.checkpoint.format import handle_state_dict_prefixes, identity, load_checkpoint
from core.errors import CheckpointError
from model import GPT

# reading


@pytest.fixture
def saved(tmp_path: Path, tiny_model: GPT) -> Path:
    path = tmp_path / "saved.pt"
    torch.save({"model": tiny_model.state_dict(), "model_args": {"n_layer": 2}, "iter_num": 7}, path)
    return path


def test_a_checkpoint_is_read_as_it_was_saved(saved: Path, tiny_model: GPT) -> None:
    checkpoint = load_checkpoint(saved)

    assert checkpoint["model_args"] == {"n_layer": 2} and checkpoint["iter_num"] == 7
    assert list(checkpoint["model"]) == list(tiny_model.state_dict())
    assert all(torch.equal(checkpoint["model"][name], value) for name, value in tiny_model.state_dict().items())


def test_a_checkpoint_of_a_wrapped_model_has_plain_parameter_names(saved: Path, tiny_model: GPT) -> None:
    state = {f"module._orig_mod.{name}": value for name, value in tiny_model.state_dict().items()}
    torch.save({"model": state, "model_args": {}}, saved)

    assert list(load_checkpoint(saved)["model"]) == list(tiny_model.state_dict())


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99, -1])
def test_a_truncated_file_is_refused(saved: Path, kept: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])

    with pytest.raises(CheckpointError, match=r"cannot read .*saved\.pt: it is truncated, damaged, or holds more than"):
        load_checkpoint(saved)


@pytest.mark.parametrize("content", [bytes(1000), b"\x80\x02" + bytes(50), bytes(range(256)) * 4, b"PK\x03\x04" * 99])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ckpt.pt").write_bytes(content)

    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(tmp_path / "ckpt.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_of_torchs_old_format_is_refused_wherever_it_is_truncated(tmp_path: Path) -> None:
    """The format before torch 1.6 has no checksums: damage causes exceptions of nearly any type."""
    path = tmp_path / "ckpt.pt"
    state = {"model": {"weight": torch.ones(3, 4)}, "model_args": {"n_layer": 2}}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for length in range(len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="cannot read"):
            load_checkpoint(path)


class Hostile:
    """An object whose unpickling makes a folder."""

    def __init__(self, made: Path) -> None:
        self.made = str(made)

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (self.made,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_hidden_in_a_checkpoint_is_not_run(tmp_path: Path, zipped: bool) -> None:
    path, made = tmp_path / "ckpt.pt", tmp_path / "made-by-the-pickle"
    checkpoint = {"model": {}, "model_args": {}, "config": Hostile(made)}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)

    with pytest.raises(CheckpointError, match="holds more than tensors and plain values"):
        load_checkpoint(path)

    assert not made.exists()
    torch.load(path, weights_only=False)  # the pickle does make the folder
    assert made.exists()


def test_a_hostile_plain_pickle_is_not_run(tmp_path: Path) -> None:
    path, made = tmp_path / "ckpt.pt", tmp_path / "made-by-the-pickle"
    path.write_bytes(pickle.dumps({"model": Hostile(made)}, protocol=2))

    with pytest.raises(CheckpointError):
        load_checkpoint(path)

    assert not made.exists()


@pytest.mark.parametrize("name", ["model.GPT", "__main__.GPTConfig", "argparse.Namespace"])
def test_an_object_in_a_checkpoint_is_named_with_the_next_step(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole model, or the options as the object that a fork keeps them in."""
    module, _, title = name.rpartition(".")
    kind = type(title, (), {"__module__": module})
    monkeypatch.setattr(sys.modules[module], title, kind, raising=False)
    torch.save({"model": {}, "model_args": {}, "config": kind()}, tmp_path / "ckpt.pt")

    with pytest.raises(
        CheckpointError, match=rf"{name}.*; if it is yours, save plain values in place of the {title}, "
    ):
        load_checkpoint(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("content", "lacking"),
    [
        ({"model": {}}, "model_args"),
        ({"model_args": {}}, "model"),
        ({"state_dict": {}}, "model, model_args"),
        ([1, 2], "model, model_args"),
        (torch.zeros(3), "model, model_args"),
    ],
)
def test_a_file_lacking_keys_is_refused(tmp_path: Path, content: Any, lacking: str) -> None:
    torch.save(content, tmp_path / "other.pt")

    with pytest.raises(CheckpointError, match=rf"other\.pt is not a checkpoint of this program: it lacks {lacking}$"):
        load_checkpoint(tmp_path / "other.pt")


def test_a_model_that_is_no_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"model": torch.zeros(3), "model_args": {}}, tmp_path / "other.pt")

    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(saved: Path, tiny_model: GPT, value: float) -> None:
    state = {f"_orig_mod.{name}": tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    state["_orig_mod.transformer.h.1.mlp.c_fc.weight"][3, 5] = value
    torch.save({"model": state, "model_args": {}}, saved)

    with pytest.raises(CheckpointError) as error:
        load_checkpoint(saved)
    assert str(error.value) == (
        f"{saved} holds weights that are NaN or infinite: transformer.h.1.mlp.c_fc.weight; its training had diverged: "
        "use an earlier checkpoint"
    )

    state["_orig_mod.lm_head.weight"][:] = value
    torch.save({"model": state, "model_args": {}}, saved)
    with pytest.raises(CheckpointError, match=r"infinite: transformer\.h\.1\.mlp\.c_fc\.weight and 1 more; "):
        load_checkpoint(saved)


def test_a_file_whose_checksum_was_compared_is_not_searched_for_nan(saved: Path) -> None:
    """Our saves have done so, and a search of all weights takes time."""
    torch.save({"model": {"w": torch.tensor([float("nan")])}, "model_args": {}}, saved)

    assert load_checkpoint(saved, check=False)["model"]["w"].isnan()


# names of parameters


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("transformer.wte.weight", "transformer.wte.weight"),
        ("_orig_mod.transformer.wte.weight", "transformer.wte.weight"),
        ("module.transformer.wte.weight", "transformer.wte.weight"),
        ("module._orig_mod.transformer.wte.weight", "transformer.wte.weight"),
        ("_orig_mod.module.transformer.wte.weight", "transformer.wte.weight"),
        ("_orig_mod._orig_mod.lm_head.weight", "lm_head.weight"),
        ("_fsdp_wrapped_module._orig_mod.lm_head.weight", "lm_head.weight"),
        (
            "module.transformer.h.0._fsdp_wrapped_module._checkpoint_wrapped_module.ln_1.weight",
            "transformer.h.0.ln_1.weight",
        ),
        ("_forward_module.module._orig_mod.lm_head.weight", "lm_head.weight"),
        ("_module.lm_head.weight", "lm_head.weight"),
        ("transformer.h._orig_mod.0.attn.bias", "transformer.h.0.attn.bias"),
        ("transformer.h.0._orig_mod.attn.bias", "transformer.h.0.attn.bias"),
        ("module.transformer.h.0.module._orig_mod.attn.bias", "transformer.h.0.attn.bias"),
        ("module.transformer.h.0._orig_mod.module.attn.bias", "transformer.h.0.attn.bias"),
        ("transformer.h.0.module.attn._orig_mod.bias", "transformer.h.0.attn.bias"),
        ("my_module.weight", "my_module.weight"),
        ("submodule.module_list.0.weight", "submodule.module_list.0.weight"),
    ],
)
def test_prefixes_of_wrappers_are_removed_and_added_again(name: str, plain: str) -> None:
    assert handle_state_dict_prefixes({name: 1}) == {plain: 1}
    assert handle_state_dict_prefixes({plain: 1}, like={name: 2}) == {name: 1}
    assert handle_state_dict_prefixes({f"module.{name}": 1}, like={name: 2}) == {name: 1}


def test_a_submodule_wrapped_twice_loses_both_prefixes() -> None:
    assert handle_state_dict_prefixes({"h.module.module.0.weight": 1}) == {"h.0.weight": 1}


def test_models_in_any_wrapper_load_each_others_state() -> None:
    def model() -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    plain, compiled, inner = model(), torch.compile(model(), backend="eager"), model()
    inner[0] = torch.compile(inner[0], backend="eager")
    parallel = nn.DataParallel(model())
    for source in (plain, compiled, inner, parallel):
        for target in (plain, compiled, inner, parallel):
            state = {key: torch.full_like(value, 7.0) for key, value in source.state_dict().items()}
            target.load_state_dict(handle_state_dict_prefixes(state, like=target.state_dict()))
            assert all(bool(parameter.eq(7).all()) for parameter in target.parameters())
            target.load_state_dict({key: torch.zeros_like(value) for key, value in target.state_dict().items()})


def test_names_that_the_other_model_lacks_stay_plain() -> None:
    assert handle_state_dict_prefixes({"a": 1, "b": 2}, like={"module.b": 0, "module.c": 0}) == {"a": 1, "module.b": 2}


# the file's own checksums


def test_a_file_with_a_flipped_bit_is_refused_or_read_unchanged(saved: Path) -> None:
    """torch verifies no checksum: without our check, most flipped bits in tensors are read without an error."""
    content, original, draw, unnoticed = saved.read_bytes(), load_checkpoint(saved), random.Random(0), 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        saved.write_bytes(damaged)
        try:
            checkpoint = load_checkpoint(saved)
        except CheckpointError:
            try:
                load_checkpoint(saved, check=False)
                unnoticed += 1
            except CheckpointError:
                pass
        else:
            assert checkpoint.keys() == original.keys() and checkpoint["iter_num"] == 7
            assert all(torch.equal(checkpoint["model"][name], value) for name, value in original["model"].items())

    assert unnoticed > 20


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"run": "R", "iter_num": 7}, ("R", 7)),
        ({"iter_num": 7}, (None, 7)),
        ({}, (None, None)),
        ({"run": 5, "iter_num": "x"}, (None, None)),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_identity_returns_the_run_and_the_iteration(
    tmp_path: Path, more: dict[str, Any], expected: tuple[str | None, int | None], zipped: bool
) -> None:
    checkpoint = {"model": {"w": torch.ones(3)}, "model_args": {}} | more
    torch.save(checkpoint, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=zipped)

    assert identity(tmp_path / "ckpt.pt") == expected


def test_a_damaged_file_or_no_checkpoint_has_no_identity(saved: Path) -> None:
    damaged = bytearray(saved.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    saved.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="cannot read"):
        identity(saved)

    torch.save([1], saved)
    with pytest.raises(CheckpointError, match="it lacks model, model_args"):
        identity(saved)


def test_the_error_for_a_legacy_checkpoint_names_the_converter(tmp_path: Path) -> None:
    """It holds an enum of that program's model.py, which `weights_only` refuses."""
    module = types.ModuleType("legacy_model")
    module.ModelMode = enum.Enum("ModelMode", {"LM": "language_model"})  # type: ignore[attr-defined]
    module.ModelMode.__module__ = "model"
    real = sys.modules["model"]
    sys.modules["model"] = module
    try:
        torch.save({"model": {}, "model_args": {"mode": module.ModelMode.LM}}, tmp_path / "ckpt.pt")
    finally:
        sys.modules["model"] = real

    with pytest.raises(CheckpointError, match=r"core line: convert it with `python -m tools.convert .*ckpt\.pt`"):
        load_checkpoint(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("changes", "legacy"),
    [
        ({"config": {"meta": {"vocab_size": 17}}, "model_args": {"attention_type": "bidirectional"}}, True),
        ({"config": {"model_mode": "language_model"}}, True),
        ({"training_context": {}, "config": {"training_type": "unmasking"}}, True),
        ({"config": {"meta": {}}, "model_args": {"attention_type": "causal"}}, False),  # nanoGPT's kind of model
        ({"config": {"dataset": "x"}}, False),
        ({"config": {"training_type": "unmasking", "meta": {}, "model_mode": "auto"}}, False),  # ours
        ({"config": None}, False),
        ({}, False),
    ],
)
def test_a_readable_legacy_checkpoint_is_refused_with_the_same_error(
    tmp_path: Path, changes: dict[str, Any], legacy: bool
) -> None:
    torch.save({"model": {}, "model_args": {}, **changes}, tmp_path / "ckpt.pt")

    if legacy:
        with pytest.raises(CheckpointError, match=r"core line: convert it with `python -m tools.convert .*ckpt\.pt`"):
            load_checkpoint(tmp_path / "ckpt.pt")
    else:
        load_checkpoint(tmp_path / "ckpt.pt")


# damaged content

NO_TENSORS = (
    (lambda tensor: tensor.to_sparse(), "is sparse: save it with `to_dense()`"),
    (lambda tensor: tensor.to("meta"), "holds no numbers (it is on the device meta): save the model after"),
    (lambda tensor: tensor.to(torch.complex64), "is of type torch.complex64: save it as float32"),
    (lambda tensor: tensor[:1, :1].expand(2**40, 32), "repeats fewer numbers than its shape (1099511627776, 32) has"),
)


@pytest.mark.parametrize(("damage", "message"), NO_TENSORS)
def test_a_weight_that_is_no_ordinary_tensor_is_named(
    damage: Callable[[torch.Tensor], torch.Tensor], message: str, saved: Path, tiny_model: GPT
) -> None:
    """Before anything is computed with it: a check of the last one's numbers would take all memory."""
    name = "transformer.h.1.mlp.c_fc.weight"
    state = {**tiny_model.state_dict(), name: damage(tiny_model.state_dict()[name])}
    torch.save({"model": state, "model_args": {}}, saved)

    with pytest.raises(CheckpointError) as error:
        load_checkpoint(saved)
    assert f"{saved} cannot be used: its {name} {message}" in str(error.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokenizer": "bpe"}, "its tokenizer is no dict"),
        ({"best_val_loss": [1.5]}, "its best_val_loss is no number"),
    ],
)
def test_a_checkpoint_with_facts_of_another_type_is_refused(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    checkpoint = {"model": {"w": torch.ones(2)}, "model_args": {}, "iter_num": 5, "best_val_loss": torch.tensor(1.5)}
    torch.save(checkpoint, tmp_path / "good.pt")
    torch.save({**checkpoint, **change}, tmp_path / "bad.pt")

    assert load_checkpoint(tmp_path / "good.pt")["iter_num"] == 5
    with pytest.raises(CheckpointError, match=f"bad.pt is damaged: {reason}; put a good copy in its place$"):
        load_checkpoint(tmp_path / "bad.pt")


@pytest.mark.parametrize("config", [[1], "x", {"dataset": 5}, {"dataset": "x" * 300}, {"dataset": torch.ones(2)}])
def test_a_config_that_holds_no_options_is_refused(config: Any, saved: Path, tiny_model: GPT) -> None:
    content = {"model": tiny_model.state_dict(), "model_args": {}}
    torch.save({**content, "config": config}, saved)

    with pytest.raises(
        CheckpointError, match="is damaged: its config is no dict of options; put a good copy in its place$"
    ):
        load_checkpoint(saved)
    torch.save({**content, "config": {"dataset": "deep/" * 90}}, saved)
    load_checkpoint(saved)
