"""Checkpoints of the C line: what is read of training_state.pt, without running code, and which folder is newest."""

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.errors import CheckpointError
from extras.hugging_face.c_line_checkpoint import STATE, fit_moments, is_c_line, newest, read_state
from tests.hf.c_line_runs import SETTINGS, training_state

SCHEDULE = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([nn.Parameter(torch.ones(1))]), T_max=9)


def three_layers() -> nn.Sequential:
    """Return a model whose weights and biases take turns."""
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 3))


def stepped(model: nn.Module) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(model.parameters(), **SETTINGS)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    optimizer.step()
    return optimizer


def written(folder: Path, content: Any, name: str = "config.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{}")
    torch.save(content, folder / STATE)
    return folder


def test_step_and_moments_are_read_whatever_the_random_states_hold(tmp_path: Path) -> None:
    optimizer = stepped(three_layers())
    folder = written(tmp_path / "checkpoint-8", training_state(8, optimizer, SCHEDULE))
    found = read_state(folder)

    assert found["iter_num"] == 8 and set(found) == {"model", "model_args", "iter_num", "optimizer"}
    for number, state in optimizer.state_dict()["state"].items():
        assert torch.equal(found["optimizer"]["state"][number]["exp_avg_sq"], state["exp_avg_sq"])


def test_a_file_from_before_numpy_2_is_read(tmp_path: Path) -> None:
    folder = written(tmp_path / "checkpoint-8", training_state(8, stepped(three_layers()), SCHEDULE))
    with zipfile.ZipFile(folder / STATE) as file:
        content = {name: file.read(name) for name in file.namelist()}
    old, new = b"numpy.core.multiarray", b"numpy._core.multiarray"
    assert any(old in data or new in data for data in content.values())
    for one, other in ((old, new), (new, old)):
        with zipfile.ZipFile(folder / STATE, "w") as file:
            for name, data in content.items():
                file.writestr(name, data.replace(one, other))
        assert read_state(folder)["iter_num"] == 8


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, ("run",)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = written(tmp_path / "checkpoint-8", {"global_step": 8, "rng_states": Hostile()})
    with pytest.raises(CheckpointError, match=r"training_state.pt is damaged, or holds more than a training state \("):
        read_state(folder)
    assert not Path("run").exists()


def test_damage_is_noticed(tmp_path: Path) -> None:
    folder = written(tmp_path / "checkpoint-8", training_state(8, stepped(three_layers()), SCHEDULE))
    content = bytearray((folder / STATE).read_bytes())
    content[content.index(torch.get_rng_state().numpy().tobytes()[:64])] ^= 1
    (folder / STATE).write_bytes(content)
    advice = rf"take an earlier one with ckpt_filename, or the weights alone with init_from=hf:{folder}$"
    with pytest.raises(CheckpointError, match=rf"the checksum of .* is wrong\): {advice}"):
        read_state(folder)
    for wrong in ([], {"global_step": True}, {"global_step": -1}, {}):
        torch.save(wrong, folder / STATE)
        with pytest.raises(CheckpointError, match=rf"has global_step=.*, wanted a number of updates: {advice}"):
            read_state(folder)


def test_the_newest_complete_one_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest(tmp_path) is newest(tmp_path / "nowhere") is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11-2", "checkpoint-x", "model-12"):
        written(tmp_path / name, {})
    written(tmp_path / "checkpoint-13", {}, "adapter_config.json")
    written(tmp_path / "checkpoint-14", {}, "other.json")
    assert newest(tmp_path) == tmp_path / "checkpoint-13" and not caplog.messages
    assert is_c_line(tmp_path / "checkpoint-13") and not is_c_line(tmp_path / "checkpoint-14")
    (tmp_path / "checkpoint-13" / STATE).unlink()
    assert newest(tmp_path) == tmp_path / "checkpoint-10"
    assert caplog.messages == [
        f"{tmp_path}/checkpoint-13 has no training_state.pt: its save was cut short; {tmp_path}/checkpoint-10 is used "
        "instead"
    ]
    (tmp_path / "ckpt-000001.json").touch()
    assert newest(tmp_path) is None


def test_moments_follow_their_parameters_into_two_groups(tmp_path: Path) -> None:
    model = three_layers()
    saved = stepped(model).state_dict()
    model[1].requires_grad_(False)
    found = fit_moments(saved, model, tmp_path)
    assert found is not None

    assert [group["params"] for group in found["param_groups"]] == [[0, 1], [2, 3]]
    assert all({**group, **SETTINGS} == group for group in found["param_groups"])
    for number, there in enumerate((0, 4, 1, 5)):  # the weights of the two trained layers, then their biases
        assert torch.equal(found["state"][number]["exp_avg"], saved["state"][there]["exp_avg"])
    assert len(found["state"]) == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state["param_groups"][0]["params"].pop(), "ValueError: zip()"),
        (lambda state: state["state"][1].update(exp_avg=torch.zeros(9)), "a tensor of shape (9,), not (3,)"),
        (lambda state: state["state"][1].pop("exp_avg"), "KeyError: 'exp_avg'"),
        (lambda state: state.pop("param_groups"), "KeyError: 'param_groups'"),
    ],
)
def test_moments_of_another_model_are_none(
    change: Any, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = stepped(three_layers()).state_dict()
    change(saved)
    assert fit_moments(saved, three_layers(), tmp_path) is None
    assert f"AdamW's moments in {tmp_path / STATE} do not fit (" in caplog.text and reason in caplog.text


def test_a_parameter_without_moments_has_none_here(tmp_path: Path) -> None:
    """As the frozen base of an adapter."""
    saved = stepped(three_layers()).state_dict()
    del saved["state"][2]
    found = fit_moments(saved, three_layers(), tmp_path)
    assert found is not None and len(found["state"]) == 5
    assert fit_moments(None, three_layers(), tmp_path) is None
