"""Finding a checkpoint by a path, and loading the newest one into a model."""

from pathlib import Path

import pytest
import torch
from torch import nn

from core.checkpoint.find import find_checkpoint, find_latest_checkpoint, reload_from_latest, save_checkpoint
from core.checkpoint.format import load_checkpoint
from core.checkpoint.manager import CheckpointManager
from core.errors import CheckpointError


def trained(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_reload_from_latest_loads_the_newest_healthy_checkpoint(tmp_path: Path) -> None:
    checkpoints = CheckpointManager(tmp_path)
    for number, healthy in ((1, True), (2, False)):
        model, optimizer = trained(number)
        content = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "model_args": {},
            "iter_num": number,
        }
        save_checkpoint(checkpoints, content, {"iter_num": number, "val_loss": None, "healthy": healthy})
    wanted, wanted_optimizer = trained(1)
    model, optimizer = trained(3)

    assert find_latest_checkpoint(tmp_path) == tmp_path / "ckpt-000002.pt"
    wrapped = nn.DataParallel(model)
    assert reload_from_latest(checkpoints, wrapped, optimizer)["iter_num"] == 1
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), wanted.parameters(), strict=True))
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    wanted_moments = [state["exp_avg"] for state in wanted_optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, wanted_moments, strict=True))


def test_reload_from_latest_raises_without_a_healthy_checkpoint(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    checkpoints = CheckpointManager(tmp_path)
    with pytest.raises(CheckpointError, match="no healthy checkpoint in"):
        reload_from_latest(checkpoints, model, optimizer)


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    checkpoints = CheckpointManager(tmp_path)
    content = {"model": {"weight": torch.ones(9, 9)}, "model_args": {}}
    save_checkpoint(checkpoints, content, {"iter_num": 1, "val_loss": None, "healthy": True})

    with pytest.raises(CheckpointError, match="ckpt-000001.pt does not fit the model"):
        reload_from_latest(checkpoints, model, optimizer)


def test_find_latest_checkpoint_raises_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        find_latest_checkpoint(tmp_path)


def test_find_checkpoint_takes_the_path_of_a_file_or_of_a_folder(tmp_path: Path) -> None:
    notes = {"iter_num": 1, "val_loss": 2.0, "healthy": True}
    saved = save_checkpoint(CheckpointManager(tmp_path / "out"), {"model": {}, "model_args": {}}, notes)
    (tmp_path / "ckpt.pt").touch()

    assert find_checkpoint(str(tmp_path / "ckpt.pt")) == tmp_path / "ckpt.pt"
    assert saved is not None and find_checkpoint(tmp_path / "out").read_bytes() == saved.read_bytes()
    with pytest.raises(CheckpointError, match="^no checkpoint at nowhere: give the folder of a run, or a file in it"):
        find_checkpoint("nowhere")


def test_find_checkpoint_prefers_a_folders_ckpt_pt_to_its_newest(tmp_path: Path) -> None:
    manager, notes = CheckpointManager(tmp_path), {"val_loss": 2.0, "healthy": True}
    first, second = ({"model": {}, "model_args": {}, "iter_num": number} for number in (1, 2))
    save_checkpoint(manager, first, {**notes, "iter_num": 1})
    save_checkpoint(manager, second, {**notes, "iter_num": 2}, link=False)

    assert load_checkpoint(find_checkpoint(tmp_path))["iter_num"] == 1
    assert load_checkpoint(find_latest_checkpoint(tmp_path))["iter_num"] == 2
