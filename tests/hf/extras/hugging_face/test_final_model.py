"""The folder of the final model: a copy of a checkpoint that replaces an earlier one, and nothing else."""

from pathlib import Path

import pytest

from core.checkpoint.run_folder import CONFIG_MARK
from extras.hugging_face.final_model import replace


def checkpoint(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "options.yaml").write_text(CONFIG_MARK)
    (folder / "training.pt").write_text("state")
    (folder / "model.safetensors").write_text(content)
    return folder


def test_a_later_copy_replaces_an_earlier_one(tmp_path: Path) -> None:
    target = tmp_path / "final_model"
    replace(checkpoint(tmp_path / "one", "a"), target)
    (target / "more").write_text("x")
    replace(checkpoint(tmp_path / "two", "b"), target)

    assert sorted(file.name for file in target.iterdir()) == ["model.safetensors", "options.yaml"]
    assert (target / "model.safetensors").read_text() == "b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final_model", "one", "two"]


def test_a_folder_of_the_user_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "final_model").mkdir()
    (tmp_path / "final_model" / "mine").write_text("x")
    replace(checkpoint(tmp_path / "one", "a"), tmp_path / "final_model")

    assert (tmp_path / "final_model" / "mine").exists() and "is not of a run, and stays" in caplog.text
