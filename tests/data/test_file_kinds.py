"""File kinds: what is no token file is named, and token files of every legitimate sort are not."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from data.file_kinds import BLOCK_BYTES, NUMBERS, number_format, read_blocks, signed_kind, text_kind

U2 = np.dtype(np.uint16)
GPT2 = np.random.default_rng(0).integers(0, 50257, 4000).astype(U2)
TEXT = "".join(f"line {n}: the quick brown fox\n" for n in range(200))
WIDE = [code for code in NUMBERS if np.dtype(code).itemsize > 2]


def saved(*arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    if len(arrays) > 1:
        np.savez(file, *arrays)
    else:
        np.save(file, arrays[0])
    return file.getvalue()


def tar_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("train.bin")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def shard(magic: int, version: int, ids: np.ndarray) -> bytes:
    return np.array([magic, version, len(ids), *[0] * 253], np.int32).tobytes() + ids.tobytes()


def kind_of(folder: Path, content: bytes) -> str | None:
    path = folder / "train.bin"
    path.write_bytes(content)
    kind = signed_kind(path, U2) or text_kind(path, read_blocks(path))
    return kind and kind.name


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (saved(GPT2), "a NumPy .npy file"),
        (saved(GPT2, GPT2), "a zip archive"),
        (shard(20240520, 1, GPT2), "a shard of llm.c with a header"),
        (shard(20240801, 7, GPT2.astype(np.uint32)), "a shard of llm.c with a header"),
        (gzip.compress(GPT2.tobytes()), "a gzip file"),
        (bz2.compress(GPT2.tobytes()), "a bzip2 file"),
        (lzma.compress(GPT2.tobytes()), "an xz file"),
        (b"\x28\xb5\x2f\xfd" + GPT2.tobytes(), "a zstd file"),
        (b"PAR1" + GPT2.tobytes() + b"PAR1", "a Parquet file"),
        (b"ARROW1\0\0" + GPT2.tobytes(), "an Arrow file"),
        (b"\x89HDF\r\n\x1a\n" + GPT2.tobytes(), "an HDF5 file"),
        (pickle.dumps(GPT2.tolist(), protocol=4), "a pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html>\n<html>404</html>", "a web page"),
        (b"<HTML><body>", "a web page"),
        (b"<!-- saved --><html>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
        (b"/annex/objects/SHA256E-s1048576--0123456789abcdef.bin\n", "a git-annex pointer"),
        (tar_of(GPT2.tobytes()), "a tar archive"),
        (b"7z\xbc\xaf\x27\x1c" + GPT2.tobytes(), "a 7z or rar archive"),
        (b"Rar!\x1a\x07\1\0" + GPT2.tobytes(), "a 7z or rar archive"),
        (save({"ids": torch.zeros(9, dtype=torch.long)}), "a safetensors file"),
        (b"LITPKDS" + bytes(17) + GPT2.tobytes(), "a packed file of lit-gpt"),
        (b"MMIDIDX\0\0" + GPT2.astype(np.int64).tobytes(), "an index of Megatron"),
        (b"TNTIDX\0\0" + GPT2.astype(np.int64).tobytes(), "an index of Megatron"),
        (TEXT.encode(), "text"),
        (b"\xef\xbb\xbf" + TEXT.encode(), "text"),
        (TEXT.encode("utf-16"), "text"),
        ("天地玄黃宇宙洪荒日月盈昃\n".encode() * 500, "text"),
        (b"ACGTTGCAATGCCGA\n" * 10, "text"),
        (json.dumps({"text": TEXT}).encode(), "text"),
    ],
)
def test_what_is_no_token_file_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    assert (kind_of(tmp_path, content) or "").startswith(name)


@pytest.mark.parametrize(
    "ids",
    [
        GPT2,
        GPT2 % 65,
        np.frombuffer(TEXT.encode(), np.uint8),  # bytes, as ids
        np.zeros(1000),
        np.full(1000, 24929),  # as bytes: aaaa...
        np.array([0x6161, 0x6262, 0x6162] * 300),
        np.arange(1000) % 95 + 0x2020,  # every byte is printable
        np.array([0x8B1F, 0x0108, *GPT2]),  # the signature of gzip, and no gzip
        np.array([0x5A42, 0x3168, 7]),
        np.array([0x4E93, 0x4D55, 0x5950, 1, 2]),
        np.array([0xD888, 0x0134, 7, 9]),  # llm.c's number, and no version
        np.array([0x4150, 0x3152, 7, 9]),  # PAR1 at the beginning only
        np.array([0x6561] * 50 + [0x2020] * 50),
        np.array([0x3C3C, 0x3F3C, 7, 9]),
        np.array([9, 0, 0, 0, 7, 9]),  # a length, and no JSON
        np.array([]),
    ],
)
def test_token_files_are_not_taken_for_something_else(tmp_path: Path, ids: np.ndarray) -> None:
    assert kind_of(tmp_path, ids.astype(U2).tobytes()) is None


def test_the_remedy_makes_a_token_file(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    for content, dtype in ((saved(GPT2), U2), (shard(20240520, 1, GPT2), U2)):
        path.write_bytes(content)
        kind = signed_kind(path, dtype)
        assert kind is not None
        code = kind.remedy.split('python -c "')[1].split('"`')[0]
        exec(code)
        assert np.array_equal(np.fromfile(path, U2), GPT2)


# number formats


@pytest.mark.parametrize("code", WIDE)
@pytest.mark.parametrize("limit", [12, 2**16])
def test_numbers_of_other_formats_are_recognized(code: str, limit: int) -> None:
    ids = np.arange(1200) % 9 + 1

    assert number_format([ids.astype(code).tobytes()], limit, WIDE) == code


@pytest.mark.parametrize("code", WIDE)
def test_ids_of_gpt2_in_other_formats_are_recognized(code: str) -> None:
    assert number_format([GPT2.astype(code).tobytes()], 50257, WIDE) == code


@pytest.mark.parametrize(
    "ids",
    [
        GPT2,
        GPT2 % 65,
        GPT2 % 2,
        np.array([0, 1] * 1000),
        np.array([1, 0, 0, 0] * 1000),
        np.array([5, 0] * 1000),
        np.zeros(4000),
        np.full(4000, 7),
        np.where(np.arange(4000) % 400 == 0, np.arange(4000) // 400, 0),  # rare ids, and only at even positions
        np.array([3, 0, 4, 0, 5, 0]),
        np.array([]),
    ],
)
def test_two_byte_ids_are_no_other_format(ids: np.ndarray) -> None:
    for limit in (12, 50257, 2**16):
        assert number_format([ids.astype(U2).tobytes()], limit, WIDE) is None


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 65536), st.integers(1, 3000), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_random_two_byte_ids_are_no_other_format(vocab: int, count: int, zeros: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    ids = draw.integers(0, vocab, count) * (draw.random(count) >= zeros)

    assert number_format([ids.astype(U2).tobytes()], vocab, WIDE) is None


# samples


def test_blocks_are_spread_over_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    for size in (0, 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 5, 2**22 + 1):
        path.write_bytes(b"\1" * size)
        blocks = read_blocks(path)
        assert len(blocks) <= 64 and sum(map(len, blocks)) <= size
        if size < 64 * BLOCK_BYTES:
            assert sum(map(len, blocks)) == size
    marked = bytearray(2**22)
    marked[-300:] = b"\1" * 300
    path.write_bytes(marked)
    assert read_blocks(path)[-1].endswith(b"\1" * 290)
