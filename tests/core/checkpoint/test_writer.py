"""A checkpoint as one file that nanoGPT can read."""

from pathlib import Path

import pytest
import torch

from core import files
from core.checkpoint.writer import TorchFile


def test_a_file_is_written_and_read_again(tmp_path: Path) -> None:
    checkpoint = {"model": {"weight": torch.arange(3)}, "model_args": {"n_layer": 2}, "iter_num": 7}
    writer = TorchFile()

    assert writer.gather(checkpoint) is checkpoint
    writer.write(checkpoint, tmp_path / "ckpt-000001.pt.part")
    restored = writer.read(tmp_path / "ckpt-000001.pt.part")

    assert torch.equal(restored["model"]["weight"], torch.arange(3))
    assert (restored["model_args"], restored["iter_num"], writer.suffix) == ({"n_layer": 2}, 7, ".pt")


def test_a_full_disk_is_the_reason_that_the_system_gives() -> None:
    """`/dev/full` takes no byte; torch's own reason is a line of its source code."""
    with pytest.raises(RuntimeError):
        torch.save({}, "/dev/full")
    with pytest.raises(OSError, match="No space left on device") as error:
        TorchFile().write({}, Path("/dev/full"))

    assert files.reason(error.value) == "No space left on device"


def test_any_other_error_of_torch_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no disk is to blame")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="no disk is to blame"):
        TorchFile().write({}, tmp_path / "file")
