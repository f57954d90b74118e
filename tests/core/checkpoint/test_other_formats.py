"""Files and folders of other kinds are named, with the next step."""

import gzip
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.checkpoint.format import load_checkpoint
from core.checkpoint.manager import CheckpointManager
from core.checkpoint.other_formats import kind_of_file, kind_of_folder
from core.errors import CheckpointError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4f1d\nsize 498813109\n"
HEADER = json.dumps({"lm_head.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
FILES = {
    "LFS pointer": (POINTER, "is a Git LFS pointer, not the file .*: fetch that with `git lfs pull`"),
    "annex pointer": (b"/annex/objects/SHA256E-s12--ab.pt\n", "is a git-annex pointer.*`git annex get`"),
    "web page": (b"\n<!DOCTYPE html><html>Sign in", "is a web page: the download failed or needs a login"),
    "safetensors": (struct.pack("<Q", len(HEADER)) + HEADER + bytes(4), "is a safetensors file: make a checkpoint of"),
    "GGUF": (b"GGUF\x03\0\0\0", "is a GGUF file of llama.cpp: use the PyTorch checkpoint"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "is an HDF5 file of Keras"),
    "gzip": (gzip.compress(b"ckpt"), "is a compressed file: unpack it"),
    "llama2.c": (struct.pack("<7i", 288, 768, 6, 6, 6, 32000, 256) + bytes(99), "is a model of llama2.c"),
    "llama2.c, version 1": (struct.pack("<Ii", 0x616B3432, 1) + bytes(248), "is a model of llama2.c"),
}
GPT = {"transformer.wte.weight": torch.ones(5, 4), "transformer.h.0.attn.c_attn.weight": torch.ones(12, 4)}
HF = {"transformer.wte.weight": torch.ones(5, 4), "transformer.h.0.attn.c_attn.weight": torch.ones(4, 12)}
LLAMA2C = {"tok_embeddings.weight": torch.ones(5, 4)}
LLAMA = {"model.layers.0.self_attn.q_proj.weight": torch.ones(4, 4)}
CONTENTS: dict[str, tuple[Any, str]] = {
    "bare weights": (
        GPT,
        r"is bare weights, without model_args: make a .*torch\.load\('.*'\), .* which the weights do not show$",
    ),
    "nanochat": (
        {"model": {"transformer.h.0.attn.c_q.weight": torch.ones(4, 4)}, "step": 3},
        r"is a checkpoint without model_args: make .*which the weights do not show; its weights have other names than "
        r"nanoGPT's \(transformer.h.0.attn.c_q.weight\), so put the model.py that they were trained with next to",
    ),
    "Lightning": (
        {"pytorch-lightning_version": "2.1", "state_dict": {f"model.{name}": value for name, value in GPT.items()}},
        r"is a Lightning checkpoint, with its weights in 'state_dict': make .*\)\['state_dict'\]",
    ),
    "tutorial": (
        {"model_state_dict": GPT, "epoch": 3},
        r"is a checkpoint of another trainer, with its weights in 'model_state_dict': make a checkpoint",
    ),
    "DeepSpeed": ({"module": GPT, "dp_world_size": 2}, r"is a checkpoint of DeepSpeed, with its weights in 'module'"),
    "no model_args": ({"model": GPT, "iter_num": 3}, r"is a checkpoint without model_args: make .*\)\['model'\]"),
    "Hugging Face": (HF, r"is a Hugging Face GPT-2, .* use --init_from=FOLDER$"),
    "Hugging Face, saved as a model": ({"model": HF}, r"is a Hugging Face GPT-2, .* use --init_from=FOLDER$"),
    "Llama": (LLAMA, r"is a Hugging Face model of another architecture than GPT-2"),
    "llama2.c": (LLAMA2C, r"is a model of llama2\.c, .*: sample and train it with llama2\.c"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_torch_cannot_read_is_named_with_the_next_step(tmp_path: Path, kind: str) -> None:
    content, message = FILES[kind]
    (tmp_path / "ckpt.pt").write_bytes(content)

    with pytest.raises(CheckpointError, match=f"(?s)ckpt\\.pt {message}"):
        load_checkpoint(tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=f"(?s)^no good checkpoint in .*ckpt\\.pt {message}"):
        CheckpointManager(tmp_path).load()


@pytest.mark.parametrize("kind", CONTENTS)
def test_weights_of_other_programs_are_named_with_the_next_step(tmp_path: Path, kind: str) -> None:
    content, message = CONTENTS[kind]
    torch.save(content, tmp_path / "ckpt.pt")

    with pytest.raises(CheckpointError, match=f"(?s)ckpt\\.pt {message}"):
        load_checkpoint(tmp_path / "ckpt.pt")


def test_the_command_of_the_message_makes_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(GPT, "weights.pt")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint("weights.pt")

    command = str(error.value).split('python -c "')[1].split('"\n')[0]
    exec(command.replace("N}", "2}"))

    assert load_checkpoint("ckpt.pt")["model_args"] == {"n_head": 2}
    assert torch.equal(load_checkpoint("ckpt.pt")["model"]["transformer.wte.weight"], torch.ones(5, 4))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("inner/ckpt.pt", "is a compressed file"),
        ("arr_0.npy", "is a NumPy archive"),
        ("m/constants.pkl", "is a TorchScript program"),
    ],
)
def test_an_archive_is_named_by_what_is_in_it(tmp_path: Path, name: str, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "ckpt.pt", "w") as archive:
        archive.writestr(name, b"content")

    with pytest.raises(CheckpointError, match=f"ckpt.pt {message}"):
        load_checkpoint(tmp_path / "ckpt.pt")


def test_the_folder_of_a_hugging_face_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(FILES["safetensors"][0])

    with pytest.raises(CheckpointError, match=f"is the folder of a Hugging Face model: .* --init_from={tmp_path}$"):
        CheckpointManager(tmp_path).load()
    with pytest.raises(CheckpointError, match=f"safetensors file of a Hugging Face model: .* --init_from={tmp_path}$"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_the_folder_of_a_distributed_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").touch()

    with pytest.raises(CheckpointError, match=r"is a checkpoint of torch\.distributed: .* dcp_to_torch"):
        CheckpointManager(tmp_path).load()


def test_a_folder_or_content_of_no_known_kind_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert kind_of_folder(tmp_path) is None

    np.ones(300).tofile(tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(tmp_path / "ckpt.pt")


def test_sizes_that_no_llama_has_are_not_llama2c(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    for sizes in ((290, 768, 6, 6, 6, 32000, 256), (288, 768, 6, 6, 7, 32000, 256), (288, 100, 6, 6, 6, 32000, 256)):
        path.write_bytes(struct.pack("<7i", *sizes) + bytes(99))
        assert kind_of_file(path) is None


def test_a_damaged_archive_is_no_known_kind_and_refused(tmp_path: Path) -> None:
    """A wrong byte in a name of the archive's directory, which says that its names are UTF-8."""
    path = tmp_path / "ckpt.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("é/data.pkl", b"x")
    content = path.read_bytes()
    last = content.rindex("é".encode())
    path.write_bytes(content[:last] + b"\xe5" + content[last + 1 :])

    assert zipfile.is_zipfile(path) and kind_of_file(path) is None
    with pytest.raises(CheckpointError, match=r"ckpt\.pt: it is truncated, damaged, or holds more"):
        load_checkpoint(path)
