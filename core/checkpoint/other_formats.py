"""Files and folders that are no checkpoint of nanoGPT's kind: what they are, and what to do with them."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from core.commands import command

HEAD_BYTES = 4096
LLAMA2C_MAGIC = 0x616B3432  # of its exports from version 1 on
LLAMA2C = "a model of llama2.c, which is no GPT-2: sample and train it with llama2.c"
COMPRESSED = "a compressed file: unpack it, and use the checkpoint inside"
BEGINNINGS = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file that it stands for: fetch that with `git lfs pull`",
    ),
    (b"/annex/objects/", "a git-annex pointer, not the file that it stands for: fetch that with `git annex get`"),
    (b"GGUF", "a GGUF file of llama.cpp: use the PyTorch checkpoint that it was made from"),
    (b"\x89HDF\r\n", "an HDF5 file of Keras: only PyTorch checkpoints are read"),
    *((magic, COMPRESSED) for magic in (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")),
)
# keys under which other programs keep the weights, and who they are
WEIGHT_KEYS = {
    "state_dict": "a checkpoint of another trainer",
    "model_state_dict": "a checkpoint of another trainer",
    "module": "a checkpoint of DeepSpeed",
}
MAKE_CHECKPOINT = (
    "make a checkpoint of it with\n"
    "  python -c \"{imports}import torch; torch.save({{'model': {weights}, 'model_args': {{'n_head': N}}}}, "
    "'ckpt.pt')\"\n"
    "where N is its number of heads, which the weights do not show"
)
ATTENTION = "attn.c_attn.weight"  # ends a name in every layer of nanoGPT's model
STEP = re.compile(r"checkpoint-(\d+)")  # name of a folder that other trainers save
OWN_MODEL = (
    "; its weights have other names than nanoGPT's ({name}), so put the model.py that they were trained with next to "
    "train.py"
)


def kind_of_file(path: str | Path) -> str | None:
    """Return what a file that torch cannot read is, and the next step; None if that is not known."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _kind_of_archive(archive.namelist())
    except Exception:  # the directory of a damaged archive can fail in nearly any way
        return None
    for beginning, kind in BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page: the download failed or needs a login; download the file itself"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return _kind_of_safetensors(Path(path))
    return LLAMA2C if _is_llama2c_export(head) else None


def kind_of_content(path: str | Path, content: Any) -> str | None:
    """Return what a readable file without `model` and `model_args` is, and the next step; None if not known."""
    if not isinstance(content, dict):
        return None
    if Path(path).suffix == ".safetensors":  # torch.load reads them in newer versions
        return _kind_of_safetensors(Path(path))
    if is_weights(content):
        return kind_of_weights(content) or f"bare weights, without model_args: {_advice(path, '', content)}"
    lightning = "pytorch-lightning_version" in content
    for key, whose in WEIGHT_KEYS.items():
        if is_weights(content.get(key)):
            whose = "a Lightning checkpoint" if lightning else whose
            advice = _advice(path, key, content[key])
            return kind_of_weights(content[key]) or f"{whose}, with its weights in {key!r}: {advice}"
    if is_weights(content.get("model")) and "model_args" not in content:
        advice = _advice(path, "model", content["model"])
        return kind_of_weights(content["model"]) or f"a checkpoint without model_args: {advice}"
    return None


def kind_of_weights(weights: Mapping[str, Any]) -> str | None:
    """Return whose weights these are if they are not a GPT of nanoGPT's form, and the next step; else None."""
    if "tok_embeddings.weight" in weights:
        return LLAMA2C
    if is_optimized_gpt2(weights):
        return f"an OptimizedGPT2 of the D line: convert it with `{command('tools/convert.py')} FILE`"
    if any(name.endswith("transformer_blocks.0.mha.qkv.weight") for name in weights):
        return "a GPT2 of the D line, whose head is not tied to its embedding: it cannot be used here"
    if any(name.endswith("self_attn.q_proj.weight") for name in weights):
        return "a Hugging Face model of another architecture than GPT-2: it cannot be used here"
    for name, tensor in weights.items():
        if name.endswith(ATTENTION) and tensor.dim() == 2 and 3 * tensor.shape[0] == tensor.shape[1]:
            return (
                "a Hugging Face GPT-2, whose matrices are transposed: put it into a folder with its config.json, and "
                "use --init_from=FOLDER"
            )
    return None


def is_optimized_gpt2(weights: Mapping[str, Any]) -> bool:
    """Return whether these are weights of the D line's OptimizedGPT2, by its scales of the residual connections."""
    return any(name.endswith("blocks.0.ls1") for name in weights)


def kind_of_folder(folder: Path) -> str | None:
    """Return what a folder without checkpoints is, or holds, and the next step; None if that is not known."""
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    if weights and (folder / "config.json").is_file():
        return f"{folder} is the folder of a Hugging Face model: if it is a GPT-2, use --init_from={folder}"
    if any(folder.glob("*.distcp")):
        return (
            f"{folder} is a checkpoint of torch.distributed: make one file of it with "
            f"`python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} ckpt.pt`"
        )
    configs = [*folder.glob("checkpoint-*/config.json"), *folder.glob("checkpoint-*/adapter_config.json")]
    if steps := {int(found[1]): path.parent for path in configs if (found := STEP.fullmatch(path.parent.name))}:
        newest = steps[max(steps)]
        return f"{newest} is of another trainer: begin with its weights, --init_from=hf:{newest}"
    return None


def is_weights(value: Any) -> bool:
    """Return whether a value is a state dict: tensors by name, at least one."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


def _kind_of_archive(names: list[str]) -> str | None:
    if any(name.endswith(".npy") for name in names):
        return "a NumPy archive: only PyTorch checkpoints are read"
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program: only PyTorch checkpoints are read"
    if any(name.endswith((".pt", ".pth", ".ckpt")) for name in names):
        return COMPRESSED
    return None


def _kind_of_safetensors(path: Path) -> str:
    if (path.parent / "config.json").is_file():
        return f"a safetensors file of a Hugging Face model: if it is a GPT-2, use --init_from={path.parent}"
    weights = f"safetensors.torch.load_file('{path}')"
    return "a safetensors file: " + MAKE_CHECKPOINT.format(imports="import safetensors.torch; ", weights=weights)


def _is_llama2c_export(head: bytes) -> bool:
    """Return whether a file begins as llama2.c's exports do: with a magic number, or with seven sizes."""
    if len(head) < 28:
        return False
    if int.from_bytes(head[:4], "little") == LLAMA2C_MAGIC:
        return True
    width, hidden, layers, heads, kv_heads, vocab, length = struct.unpack("<7i", head[:28])
    counts = 0 < layers < 1000 and 0 < kv_heads <= heads < 1000 and 0 < abs(vocab) < 2**24 and 0 < length < 2**24
    return bool(counts and 0 < width < hidden < 2**20 and width % heads == 0)


def _advice(path: str | Path, key: str, content: Mapping[str, Any]) -> str:
    weights = f"torch.load('{path}')" + (f"['{key}']" if key else "")
    other = next(iter(content)) if not any(name.endswith(ATTENTION) for name in content) else None
    return MAKE_CHECKPOINT.format(imports="", weights=weights) + (OWN_MODEL.format(name=other) if other else "")
