"""Finding and reading the checkpoint files of legacy programs."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.errors import CheckpointError
from tests.tools.legacy_runs import ModelMode, StickyStageConfig
from tools.legacy_checkpoints import find, read


class MakesFolder:
    """A pickle that makes a folder when a reader trusts it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_objects_become_plain_values(tmp_path: Path, save: Callable[[Any, Path], Path]) -> None:
    state = torch.nn.Linear(2, 3).state_dict()  # an OrderedDict with an attribute
    content = {
        "mode": ModelMode.SEQUENCE_SCORER, "config": StickyStageConfig(5, 0.25), "class": ModelMode, "none": None,
        "loss": np.float32(1.5), "n": np.int64(3), "bytes": b"\xff\x00",
        "state": state, "path": {1, 2}, "size": torch.Size([2, 3]),
    }  # fmt: skip
    loaded = read(save(content, tmp_path / "old.pt"))
    assert loaded["mode"] == "sequence_scorer"
    assert loaded["config"] == {
        "class": "train_utils.StickyStageConfig",
        "val_loss_stale_count": 5,
        "target_masked_ratio": 0.25,
    }
    assert (loaded["loss"], type(loaded["loss"]), loaded["n"]) == (1.5, float, 3)
    assert type(loaded["state"]) is dict and list(loaded["state"]) == ["weight", "bias"]
    assert torch.equal(loaded["state"]["weight"], state["weight"])
    assert sorted(loaded["path"]) == [1, 2] and loaded["size"] == (2, 3) and loaded["bytes"] == b"\xff\x00"
    assert loaded["none"] is None and loaded["class"] == "model.ModelMode"


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]
)
def test_tensors_are_read_as_they_were_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.randn(4, 6).to(dtype)
    content = {
        "complete": values,
        "part": values[1:3, ::2],
        "transposed": values.T,
        "none": values[:0],
        "number": values[0, 0],
    }
    torch.save(content, tmp_path / "old.pt")
    loaded = read(tmp_path / "old.pt")
    for name, tensor in content.items():
        assert loaded[name].dtype == dtype and loaded[name].shape == tensor.shape and torch.equal(loaded[name], tensor)
    assert loaded["transposed"].data_ptr() == loaded["complete"].data_ptr()  # they share a storage


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"model": MakesFolder(tmp_path / "ran"), "config": [MakesFolder(tmp_path / "ran")]}, tmp_path / "old.pt")
    assert read(tmp_path / "old.pt") == {"model": str(tmp_path / "ran"), "config": [str(tmp_path / "ran")]}
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FileExistsError):  # a reader that trusts pickles does run the code
        torch.load(tmp_path / "old.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["truncated", "text", "missing", "short record"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"weight": torch.ones(1000)}, path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("no checkpoint")
    elif damage == "missing":
        path.unlink()
    else:
        with zipfile.ZipFile(path) as file:
            records = {name: file.read(name) for name in file.namelist()}
        with zipfile.ZipFile(path, "w") as file:
            for name, record in records.items():
                file.writestr(name, record[:40] if name.endswith("data/0") else record)
    with pytest.raises(CheckpointError, match="no checkpoint at" if damage == "missing" else "cannot read"):
        read(path)


def test_a_pipe_is_refused_without_reading_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "old.pt")

    with pytest.raises(CheckpointError, match="cannot read .*old.pt"):
        read(tmp_path / "old.pt")


def touch_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def test_find_returns_the_highest_number_in_a_folder_or_ckpt_pt(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        find(tmp_path)
    touch_files(tmp_path, "ckpt.pt")
    assert find(tmp_path) == tmp_path / "ckpt.pt"
    touch_files(tmp_path, "ckpt_sequence_scorer_900.pt", "ckpt_sequence_scorer_1000.pt", "ckpt_sequence_scorer_x.pt")
    assert find(tmp_path) == tmp_path / "ckpt_sequence_scorer_1000.pt"
    assert find(tmp_path / "ckpt.pt") == tmp_path / "ckpt.pt"


def test_the_path_in_the_sidecar_has_priority_over_numbers(tmp_path: Path) -> None:
    touch_files(tmp_path, "ckpt_MLM_4.pt", "ckpt_MLM_8.pt")
    sidecar = tmp_path / "ckpt_meta.json"
    sidecar.write_text(json.dumps({"MLM": {"last_path": "../elsewhere/ckpt_MLM_4.pt", "iter": 4}}))
    assert find(tmp_path) == find(sidecar) == tmp_path / "ckpt_MLM_4.pt"
    sidecar.write_text(json.dumps({"MLM": {"last_path": "ckpt_MLM_6.pt", "iter": 6}}))
    there = "ckpt_MLM_6.pt, which ckpt_meta.json names: give .*; its folder has ckpt_MLM_4.pt, ckpt_MLM_8.pt$"
    with pytest.raises(CheckpointError, match=f"no checkpoint at .*{there}"):
        find(sidecar)
    sidecar.write_text("{")
    assert find(sidecar) == tmp_path / "ckpt_MLM_8.pt"


def test_a_folder_with_two_types_of_training_is_refused(tmp_path: Path) -> None:
    touch_files(tmp_path, "ckpt_MLM_4.pt", "ckpt_MLM_8.pt", "ckpt_SEQUENCE_SCORING_2.pt")
    with pytest.raises(
        CheckpointError, match=r"ckpt_SEQUENCE_SCORING_2.pt, .*ckpt_MLM_8.pt|ckpt_MLM_8.pt, .*SCORING_2.pt"
    ):
        find(tmp_path)
