"""A checkpoint as one file that nanoGPT can read."""

from pathlib import Path

import torch

from core.checkpoint.writer import TorchFile


def test_a_file_is_written_and_read_again(tmp_path: Path) -> None:
    checkpoint = {"model": {"weight": torch.arange(3)}, "model_args": {"n_layer": 2}, "iter_num": 7}
    writer = TorchFile()

    assert writer.gather(checkpoint) is checkpoint
    writer.write(checkpoint, tmp_path / "ckpt-000001.pt.part")
    restored = writer.read(tmp_path / "ckpt-000001.pt.part")

    assert torch.equal(restored["model"]["weight"], torch.arange(3))
    assert (restored["model_args"], restored["iter_num"], writer.suffix) == ({"n_layer": 2}, 7, ".pt")
