"""Tells token ids from other content of a file called train.bin: archives, web pages, text, other number formats."""

import bz2
import codecs
import lzma
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.commands import command

BLOCKS, BLOCK_BYTES = 64, 4096  # evenly spaced parts of a file that are looked at; multiples of 8 bytes
NEEDED, DISTINCT = 64, 3  # numbers that are not 0, and different ones among them: fewer prove no number format
LARGEST_WIDE = 2**18  # no tokenizer in use has more ids
LLM_C_HEADER = 1024  # bytes
LLM_C = {20240520: "uint16", 20240801: "uint32"}  # first number of the header: type of the ids
NUMBERS = {  # NumPy's codes: wider formats first, floats before the big-endian integers that they resemble
    "<i8": "8-byte integers (int64)",
    "<f8": "float64 numbers",
    ">i8": "8-byte integers in big-endian order",
    "<u4": "4-byte integers (int32 or uint32)",
    "<f4": "float32 numbers",
    ">u4": "4-byte integers in big-endian order",
    "<u2": "2-byte integers (uint16)",
    ">u2": "2-byte integers in big-endian order",
    "|u1": "1-byte integers (uint8)",
}
TINYLLAMA_HEADER = 24  # bytes, of the packed files of lit-gpt and TinyLlama


class Kind(NamedTuple):
    """What a file is, and how to make a token file of it."""

    name: str
    remedy: str


def read_blocks(path: Path) -> list[bytes]:
    """Return evenly spaced blocks of a file, the first from its beginning; each starts at a multiple of 8 bytes."""
    size = path.stat().st_size
    begins = list(range(0, size, BLOCK_BYTES))
    if len(begins) > BLOCKS:
        begins = [(size - BLOCK_BYTES) * block // (BLOCKS - 1) // 8 * 8 for block in range(BLOCKS)]
    blocks = []
    with open(path, "rb", buffering=0) as file:
        for begin in begins:
            file.seek(begin)
            blocks.append(file.read(BLOCK_BYTES))
    return blocks


def signed_kind(path: Path, dtype: np.dtype[np.unsignedinteger]) -> Kind | None:
    """Return the kind of a file that begins with the signature of a format; None for any other file.

    dtype: the type of token ids that the data set should have
    """
    with open(path, "rb") as file:
        head = file.read(BLOCK_BYTES)
        file.seek(max(path.stat().st_size - 8, 0))
        tail = file.read(8)
    start = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return Kind("a Git LFS pointer", f"fetch the file itself with `git lfs pull` or download it to {path}")
    if head.startswith(b"/annex/objects/"):
        return Kind("a git-annex pointer", f"fetch the file itself with `git annex get {path}`")
    if start.startswith((b"<!doctype html", b"<html", b"<!--", b"<?xml")):  # XML: the errors of S3 and the like
        return Kind("a web page", "download the file itself, from the address of the raw file")
    if head.startswith(b"LITPKDS"):
        remedy = _command(path, f"np.fromfile(p, np.{dtype.name}, offset={TINYLLAMA_HEADER})")
        return Kind("a packed file of lit-gpt with a header", f"if its ids have {dtype.itemsize} bytes, {remedy}")
    if head.startswith((b"MMIDIDX\0\0", b"TNTIDX\0\0")):
        return Kind("an index of Megatron", f"copy the .bin file of the same name to {path}")
    if head.startswith(b"\x93NUMPY") and b"'descr'" in head:
        return Kind("a NumPy .npy file", _command(path, f"np.load(p).astype(np.{dtype.name})"))
    if len(head) >= 8 and (found := LLM_C.get(int.from_bytes(head[:4], "little"))):
        version = int.from_bytes(head[4:8], "little")
        if 0 < version < 256:
            return _llm_c(path, "uint32" if version == 7 else found)
    packed = _packed_kind(path, head, tail)
    return Kind(packed, f"unpack or convert it, so that {path} holds nothing but {dtype.name} ids") if packed else None


def text_kind(path: Path, blocks: Sequence[bytes]) -> Kind | None:
    """Return the kind of a text file; None for any other file, and for one whose few different words prove nothing."""
    head = blocks[0] if blocks else b""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        is_text = _is_printable(head[: len(head) // 2 * 2], "utf-16")
    else:
        is_text = all(_is_printable(block.lstrip(bytes(range(0x80, 0xC0))), "utf-8") for block in blocks)
        is_text = is_text and _mixes_bytes(b"".join(blocks))
    if not is_text:
        return None
    folder = path.parent
    options = f"{folder / 'input.txt'} --name {folder.absolute().name} --tokenizer char"
    prepare = command("data/text/prepare.py")
    return Kind("text", f"rename it to input.txt and run `{prepare} {options}` (or byte, or gpt2)")


def number_format(blocks: Sequence[bytes], limit: int, candidates: Sequence[str]) -> str | None:
    """Return the code of the first candidate that turns all blocks into numbers of a vocabulary; None without one.

    limit: number of ids of the vocabulary
    """
    for code in candidates:
        values = decode(blocks, code)
        if is_ids(values, limit):
            return code
    return None


def decode(blocks: Sequence[bytes], code: str) -> npt.NDArray[Any]:
    """Return the numbers of blocks in a format; incomplete numbers at the end of a block are dropped."""
    width = np.dtype(code).itemsize
    return np.concatenate(
        [np.zeros(0, code), *(np.frombuffer(block[: len(block) // width * width], code) for block in blocks)]
    )


def is_ids(values: npt.NDArray[Any], limit: int) -> bool:
    """Return True if all values are whole numbers below `limit`, and enough of them differ to be sure."""
    if not values.size:
        return False
    with np.errstate(invalid="ignore"):
        is_valid = bool(((values >= 0) & (values < limit)).all()) and bool((values == np.floor(values)).all())
    positive = values[values != 0] if is_valid else values[:0]
    return len(positive) >= NEEDED and len(np.unique(positive)) >= DISTINCT


def numbers_kind(path: Path, code: str, dtype: np.dtype[np.unsignedinteger]) -> Kind:
    """Return the kind of a file of numbers in another format. dtype: the type that the data set should have"""
    return Kind(NUMBERS[code], _command(path, f"np.fromfile(p, '{code}').astype(np.{dtype.name})"))


def _llm_c(path: Path, dtype: str) -> Kind:
    remedy = _command(path, f"np.fromfile(p, np.{dtype}, offset={LLM_C_HEADER})")
    if dtype == "uint32":
        remedy += f", and write 'vocab_size' and 'dtype': 'uint32' into {path.parent / 'meta.pkl'}"
    return Kind("a shard of llm.c with a header", remedy)


def _command(path: Path, expression: str) -> str:
    """Return a command that replaces a file by the ids in the array `expression`; `p` is the path."""
    return f'convert it with `python -c "import numpy as np; p = {str(path)!r}; {expression}.tofile(p)"`'


def _packed_kind(path: Path, head: bytes, tail: bytes) -> str | None:
    """Return the name of a compressed or structured format; a short signature alone is not enough."""
    if head.startswith(b"\x1f\x8b\x08") and _unpacks(zlib.decompressobj(31).decompress, head, zlib.error):
        return "a gzip file"
    if head.startswith(b"BZh") and _unpacks(bz2.BZ2Decompressor().decompress, head, OSError):
        return "a bzip2 file"
    if head.startswith(b"\xfd7zXZ\0") and _unpacks(lzma.LZMADecompressor().decompress, head, lzma.LZMAError):
        return "an xz file"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "a zstd file"
    if head.startswith(b"PAR1") and tail.endswith(b"PAR1"):
        return "a Parquet file"
    if head.startswith(b"PK\3\4") and int.from_bytes(head[4:6], "little") < 64 and head[6:8] < b"\x10":
        return "a zip archive (.npz files and torch.save make them, too)"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head.startswith((b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07")):
        return "a 7z or rar archive"
    if 2 < int.from_bytes(head[:8], "little") < 2**27 and head[8:10] == b'{"':
        return "a safetensors file"
    if head.startswith((b"ARROW1\0\0", b"\x89HDF\r\n\x1a\n")):
        return "an Arrow file" if head.startswith(b"ARROW1") else "an HDF5 file"
    if head[:3] in (b"\x80\4\x95", b"\x80\5\x95") and head[7:11] == b"\0\0\0\0" and tail.endswith(b"."):
        return "a pickle"
    return None


def _unpacks(decompress: Callable[[bytes], bytes], head: bytes, error: type[Exception]) -> bool:
    """Return True if the beginning of a file can be decompressed. error: what `decompress` raises if it cannot"""
    try:
        decompress(head)
    except error:
        return False
    return True


def _is_printable(block: bytes, encoding: str) -> bool:
    """Return True if a block is text, apart from a character that its end cuts."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(block)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(c.isprintable() or c in "\t\n\v\f\r\ufeff" for c in text)


def are_bytes(blocks: Sequence[bytes]) -> bool:
    """Return True if blocks are 1-byte numbers below 128: as 2-byte numbers, high bytes are like low ones."""
    content = b"".join(blocks)
    return bool(content) and max(content) < 128 and len(content) >= 2 * NEEDED and _mixes_bytes(content)


def _mixes_bytes(block: bytes) -> bool:
    """Return True if first and second bytes of 2-byte words come from one alphabet, in 8 or more different words.

    Token ids whose bytes all are printable exist (24929 is "aa"), but a data set of a few of them is no text.
    """
    words = np.frombuffer(block[: len(block) // 2 * 2], np.uint16)
    first, second = set((words & 255).tolist()), set((words >> 8).tolist())
    return len(np.unique(words)) >= 8 and 2 * len(first & second) >= len(first | second)
