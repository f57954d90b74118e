"""Checkpoints: whole or absent, read without trust, and named alike however the model was wrapped."""

import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.checkpoint_manager import CheckpointManager, handle_state_dict_prefixes, load_checkpoint
from core.errors import CheckpointError, ConfigError
from model import GPT


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_saving_replaces_the_checkpoint(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "runs" / "out")
    for text in ("first", "second"):
        path = manager.save(lambda path, text=text: path.write_text(text))  # type: ignore[misc]

        assert path == manager.load() == tmp_path / "runs" / "out" / "ckpt.pt"
        assert path.read_text() == text
        assert names(path.parent) == ["ckpt.pt"]


@pytest.mark.parametrize(
    "error", [OSError("No space left on device"), RuntimeError("in torch.save"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("had_one", [True, False])
def test_a_write_that_fails_half_way_leaves_the_old_checkpoint_whole(
    tmp_path: Path, had_one: bool, error: BaseException
) -> None:
    manager = CheckpointManager(tmp_path)
    if had_one:
        manager.save(lambda path: path.write_text("old"))

    def write(path: Path) -> None:
        path.write_text("ne")
        raise error

    with pytest.raises(type(error)):
        manager.save(write)

    assert names(tmp_path) == ["ckpt.pt"] * had_one
    assert not had_one or manager.load().read_text() == "old"


def test_a_write_that_fails_before_it_begins_keeps_its_error(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        raise RuntimeError("nothing was written")

    with pytest.raises(RuntimeError, match="nothing was written"):
        CheckpointManager(tmp_path).save(write)


def test_what_a_killed_process_left_behind_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "ckpt.pt.part").write_text("half of an old checkpoi")

    CheckpointManager(tmp_path).save(lambda path: path.write_text("new"))

    assert names(tmp_path) == ["ckpt.pt"]
    assert (tmp_path / "ckpt.pt").read_text() == "new"


def test_content_and_then_name_are_on_disk_before_saving_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without either a power cut leaves an empty or an old file under the new name."""
    synced, fsync = [], os.fsync

    def recording(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), names(tmp_path)))
        fsync(descriptor)

    manager = CheckpointManager(tmp_path)
    monkeypatch.setattr(os, "fsync", recording)
    manager.save(lambda path: path.write_text("new"))

    assert synced == [(False, ["ckpt.pt.part"]), (True, ["ckpt.pt"])]


def test_without_a_checkpoint_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        CheckpointManager(tmp_path).load()

    assert str(error.value) == (
        f"no checkpoint at {tmp_path}/ckpt.pt: set out_dir to the folder of a run that has saved one, "
        "or train one with --init_from=scratch"
    )


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")

    with pytest.raises(ConfigError, match=r"^out_dir='.*/out' cannot be written to: .*; choose another$"):
        CheckpointManager(tmp_path / "out")


def test_a_process_that_does_not_write_makes_no_folder(tmp_path: Path) -> None:
    CheckpointManager(tmp_path / "out", writes=False)

    assert names(tmp_path) == []


def test_messages_name_the_folder_as_the_user_wrote_it() -> None:
    assert CheckpointManager("./out//", writes=False).out_dir == "./out//"


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


def test_a_compiled_and_wrapped_models_checkpoint_reads_like_a_plain_ones(saved: Path, tiny_model: GPT) -> None:
    state = {f"module._orig_mod.{name}": value for name, value in tiny_model.state_dict().items()}
    torch.save({"model": state, "model_args": {}}, saved)

    assert list(load_checkpoint(saved)["model"]) == list(tiny_model.state_dict())


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99, -1])
def test_a_truncated_file_is_refused(saved: Path, kept: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])

    with pytest.raises(CheckpointError, match=r"cannot read .*saved\.pt: it is truncated, damaged, or holds more than"):
        load_checkpoint(saved)


@pytest.mark.parametrize("content", [bytes(1000), b"\x80\x02" + bytes(50), bytes(range(256)) * 4, b"PK\x03\x04" * 99])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ckpt.pt").write_bytes(content)

    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(tmp_path / "ckpt.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_of_torchs_old_format_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    """The format before torch 1.6 has no checksums: its damage shows as an exception of nearly any kind."""
    path = tmp_path / "ckpt.pt"
    state = {"model": {"weight": torch.ones(3, 4)}, "model_args": {"n_layer": 2}}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
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
    torch.load(path, weights_only=False)  # the trap does work
    assert made.exists()


def test_a_hostile_plain_pickle_is_not_run(tmp_path: Path) -> None:
    path, made = tmp_path / "ckpt.pt", tmp_path / "made-by-the-pickle"
    path.write_bytes(pickle.dumps({"model": Hostile(made)}, protocol=2))

    with pytest.raises(CheckpointError):
        load_checkpoint(path)

    assert not made.exists()


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
        ("transformer.h._orig_mod.0.attn.bias", "transformer.h.0.attn.bias"),
        ("transformer.h.0._orig_mod.attn.bias", "transformer.h.0.attn.bias"),
        ("module.transformer.h.0.module._orig_mod.attn.bias", "transformer.h.0.attn.bias"),
        ("module.transformer.h.0._orig_mod.module.attn.bias", "transformer.h.0.attn.bias"),
        ("transformer.h.0.module.attn._orig_mod.bias", "transformer.h.0.attn.bias"),
        ("my_module.weight", "my_module.weight"),
        ("submodule.module_list.0.weight", "submodule.module_list.0.weight"),
    ],
)
def test_prefixes_of_wrappers_are_taken_off_and_put_back(name: str, plain: str) -> None:
    assert handle_state_dict_prefixes({name: 1}) == {plain: 1}
    assert handle_state_dict_prefixes({plain: 1}, like={name: 2}) == {name: 1}
    assert handle_state_dict_prefixes({f"module.{name}": 1}, like={name: 2}) == {name: 1}


def test_a_submodule_wrapped_twice_loses_both_prefixes() -> None:
    assert handle_state_dict_prefixes({"h.module.module.0.weight": 1}) == {"h.0.weight": 1}


def test_real_wrappers_load_into_one_another() -> None:
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
