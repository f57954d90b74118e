"""TokenFile, a file of token ids such as train.bin: knows the width of its ids, reads crops, checks what it reads."""

import difflib
import logging
import os
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from core.errors import DataError
from core.files import kind_of
from data.file_kinds import (
    LARGEST_WIDE,
    NUMBERS,
    Kind,
    are_bytes,
    decode,
    number_format,
    numbers_kind,
    read_blocks,
    signed_kind,
    text_kind,
)
from data.meta import read_meta
from data.prepare_scripts import prepare_command

log = logging.getLogger("coregpt")
Ids: TypeAlias = npt.NDArray[np.unsignedinteger]
DTYPE_NAME = re.compile(r"[<>=|]?[a-z]+\d{0,3}")
BYTE_IDS = 2**8  # a file of 1-byte ids has at most these
TWO_BYTE_IDS = 2**16  # a larger vocabulary needs 4 bytes per id
SCANNED_TOKENS = 2**28  # `check_vocab` reads this many tokens from the beginning, and samples of the rest
SCAN_STEP, SAMPLES, SAMPLE_TOKENS = 2**24, 64, 2**11
OF_A_DATA_SET = ("train.bin", "val.bin", "meta.pkl")


def token_dtype(meta: Mapping[str, Any], path: Path) -> np.dtype[np.unsignedinteger]:
    """Return the type of a data set's ids: that of the key `dtype` in meta.pkl, else what its vocabulary needs.

    meta: the content of `path`, meta.pkl; empty for a data set without one
    """
    name = meta.get("dtype")
    if name is None:
        return np.dtype(np.uint32 if meta.get("vocab_size", 0) > TWO_BYTE_IDS else np.uint16)
    plain = re.sub(r"^(<class ')?(numpy|np|torch)\.|'>$", "", str(name))
    try:
        found = np.dtype(plain if DTYPE_NAME.fullmatch(plain) else object)  # numpy reads more: dicts, shapes
    except TypeError:
        found = np.dtype(object)
    if found.kind not in "iu" or found.itemsize not in (2, 4) or found.newbyteorder("<") != found:
        got = reprlib.repr(str(name))
        if found.kind not in "iuf":
            raise DataError(f"{path}: dtype is {got}, wanted uint16 or uint32: name the type of the token files there")
        raise DataError(
            f"{path}: dtype is {got}, wanted uint16 or uint32: convert the token files, for instance with "
            f"np.fromfile('train.bin', {got}).astype(np.uint32).tofile('train.bin'), and correct dtype"
        )
    return np.dtype(np.uint16 if found.itemsize == 2 else np.uint32)  # ids are never negative: int32 reads the same


class TokenFile:
    """A file of token ids of 2 bytes, or of 4 where meta.pkl in its folder says so (`token_dtype`).

    dtype:      uint16 or uint32
    vocab_size: ids that are read must be below it; None until `check_vocab` is called

    Raises DataError in the constructor when the file is missing, has fewer than `at_least` tokens, or is something else
    than a token file. wanted: the smallest number of tokens in words, for the message
    """

    def __init__(self, path: str | Path, at_least: int = 1, wanted: str | None = None) -> None:
        self.path = Path(path)
        self.vocab_size: int | None = None
        self._meta_path = self.path.parent / "meta.pkl"
        if kind := kind_of(self.path):
            raise DataError(f"{self.path} is {kind}, in place of token ids: {_how_to_make_again(self.path.parent)}")
        if not self.path.is_file():
            raise DataError(f"no data at {self.path}: {_how_to_get(self.path)}")
        self._meta = read_meta(self._meta_path) if os.path.lexists(self._meta_path) else {}
        self.dtype = token_dtype(self._meta, self._meta_path)
        try:
            blocks = read_blocks(self.path)
            signed = signed_kind(self.path, self.dtype)
        except OSError as error:
            raise self._unreadable(error) from error
        if signed is None and "dtype" not in self._meta:  # a user who gives the type answers for the content
            signed = text_kind(self.path, blocks)
            signed = signed and signed._replace(remedy=f"{signed.remedy}; {self._escape()}")
        if signed:
            raise DataError(f"{self.path} is {signed.name}, wanted {self.dtype.name} token ids: {signed.remedy}")
        self._check_size()
        self.require(at_least, wanted)
        if "dtype" not in self._meta:
            self._check_numbers(blocks)

    def __len__(self) -> int:
        """Return the number of tokens in the file now; DataError if the file has vanished."""
        try:
            return self.path.stat().st_size // self.dtype.itemsize
        except OSError as error:
            raise self._unreadable(error) from error

    def require(self, count: int, wanted: str | None = None) -> None:
        """Raise DataError when there are fewer than `count` tokens. wanted: `count` in words"""
        if len(self) < count:
            raise DataError(
                f"{self.path} has {len(self)} tokens, wanted {wanted or f'{count} or more'}: "
                "use more text or a smaller block_size"
            )

    def read(self, starts: Sequence[int], sizes: Sequence[int]) -> Ids:
        """Return `sizes[i]` ids from position `starts[i]` on, one crop after another.

        Raises DataError for an id outside the vocabulary, and when the file has become shorter or unreadable.
        """
        width, crops = self.dtype.itemsize, bytearray()
        try:
            with open(self.path, "rb", buffering=0) as file:  # faster than a memory map, and keeps no pages in memory
                for start, size in zip(starts, sizes, strict=True):
                    file.seek(width * start)
                    crops += file.read(width * size)
        except OSError as error:
            raise self._unreadable(error) from error
        if len(crops) < width * sum(sizes):
            raise DataError(f"{self.path} has become shorter since the run began: start the run again")
        ids: Ids = np.frombuffer(crops, self.dtype)
        self._check_ids(ids, starts, sizes)
        return ids

    def map(self) -> Ids:
        """Return all ids as a memory map, unchecked."""
        return np.memmap(self.path, dtype=self.dtype, mode="r")

    def check_vocab(self, vocab_size: int) -> None:
        """Raise DataError when an id is outside the model's vocabulary; from now on `read` checks what it reads.

        The beginning of the file is read completely, and of the rest evenly spaced samples.
        """
        self.vocab_size = vocab_size
        tokens = self.map()
        for begin, end in _scanned(len(tokens)):
            self._check_ids(tokens[begin:end], [begin], [end - begin])

    def _check_ids(self, ids: Ids, starts: Sequence[int], sizes: Sequence[int]) -> None:
        """Raise DataError when crops of the file hold an id outside the vocabulary."""
        if self.vocab_size is None or not ids.size or ids.max() < self.vocab_size:
            return
        index = int(np.argmax(ids >= self.vocab_size))
        ends = np.cumsum(sizes)
        row = int(np.searchsorted(ends, index, side="right"))
        position = starts[row] + index - (int(ends[row]) - sizes[row])
        self._refuse_id(int(ids[index]), position, self.vocab_size)

    def _refuse_id(self, number: int, position: int, vocab_size: int) -> NoReturn:
        kind = self._contradicted_kind(vocab_size)
        found = (
            f"{self.path} holds token id {number}, at position {position:,}, but the model has ids below {vocab_size}"
        )
        if kind:
            raise DataError(f"{found}: the file looks like {kind.name}, wanted {self.dtype.name}: {kind.remedy}")
        raise DataError(
            f"{found}: the data set was prepared with another tokenizer than the model's, or meta.pkl is out of date"
        )

    def _contradicted_kind(self, vocab_size: int) -> Kind | None:
        """Return the kind of a file that has ids outside the vocabulary as it is read, and none in another format."""
        own = self.dtype.str
        try:
            blocks = read_blocks(self.path)
        except OSError:
            return None
        skipped = (own, "<u2") if own == "<u2" else (own, "<u2", ">u2")  # nearly every file has 2-byte ids below 2**16
        if vocab_size > BYTE_IDS or (decode(blocks, own) >= BYTE_IDS).mean() < 0.5:
            skipped = (*skipped, "|u1")  # most first bytes of 2-byte ids are 0 then
        candidates = [code for code in NUMBERS if code not in skipped]
        if code := number_format(blocks, vocab_size, candidates):
            return numbers_kind(self.path, code, self.dtype)
        if own == "<u2":
            code = number_format(blocks, LARGEST_WIDE, ["<i8", "<u4"])
            entries = f"write 'vocab_size' and 'dtype': 'uint32' into {self._meta_path}"
            if code == "<i8":
                kind = numbers_kind(self.path, code, np.dtype(np.uint32))
                return kind._replace(remedy=f"{kind.remedy}, and {entries}")
            return Kind(NUMBERS[code], entries) if code else None
        is_narrow = (decode(blocks, own) >= vocab_size).mean() > 0.5
        return Kind(NUMBERS["<u2"], self._declare("uint16")) if is_narrow else None

    def _escape(self) -> str:
        """Return how to have a file read that only looks like something else."""
        return f"if it is right as it is, {self._declare(self.dtype.name)}"

    def _declare(self, dtype: str) -> str:
        """Return how to give the type of the ids in meta.pkl."""
        size = "" if self._meta else "'vocab_size' and "
        return f"write {size}'dtype': {dtype!r} into {self._meta_path}"

    def _check_size(self) -> None:
        size, width = self.path.stat().st_size, self.dtype.itemsize
        if size % width:
            wrong = "odd" if width == 2 else "no multiple of 4"
            raise DataError(
                f"{self.path} has {size} bytes, which is {wrong}: not a file of {width}-byte tokens; "
                f"{_how_to_make_again(self.path.parent)}"
            )

    def _check_numbers(self, blocks: list[bytes]) -> None:
        """Raise DataError for numbers of another format, which read as token ids are zeros for the most part."""
        limit = self._meta.get("vocab_size", TWO_BYTE_IDS)
        wider = [code for code in NUMBERS if np.dtype(code).itemsize > self.dtype.itemsize]
        code = number_format(blocks, limit, wider)
        if code is None and not self._meta and number_format(blocks, 256, [">u2"]):
            code = ">u2"  # every id a multiple of 256: GPT-2's tokens are not
        if code is None and not self._meta and are_bytes(blocks):
            code = "|u1"
        if code is None:
            return
        kind = numbers_kind(self.path, code, self.dtype)
        remedy = f"{kind.remedy}; {self._escape()}"
        if self._may_separate(code, blocks):
            log.warning(f"every second id of {self.path} is 0. If it holds {kind.name}, {remedy}")
        else:
            raise DataError(f"{self.path} looks like {kind.name}, wanted {self.dtype.name} token ids: {remedy}")

    def _may_separate(self, code: str, blocks: list[bytes]) -> bool:
        """Return True if id 0 may be a character between all others, as in a text of one character per line."""
        table = self._meta.get("itos")
        has_zero = isinstance(table, dict | list) and len(table) > 0
        return has_zero and code == "<u4" and self.dtype.itemsize == 2 and bool(decode(blocks, code).all())

    def _unreadable(self, error: OSError) -> DataError:
        return DataError(
            f"cannot read {self.path} ({error.strerror or error}): make the file readable again, and resume the run"
        )


def _scanned(count: int) -> Iterator[tuple[int, int]]:
    """Yield the begin and end of the parts of a file of `count` tokens that `check_vocab` reads."""
    for begin in range(0, min(count, SCANNED_TOKENS), SCAN_STEP):
        yield begin, min(begin + SCAN_STEP, SCANNED_TOKENS, count)
    rest = count - SCANNED_TOKENS
    if rest > 0:
        last = max(count - SAMPLE_TOKENS, SCANNED_TOKENS)
        for sample in range(SAMPLES):
            begin = SCANNED_TOKENS + (last - SCANNED_TOKENS) * sample // (SAMPLES - 1)
            yield begin, min(begin + SAMPLE_TOKENS, count)


def _how_to_make_again(folder: Path) -> str:
    prepare = prepare_command(folder)
    return f"run `{prepare}` again" if prepare else "prepare the data set again"


def _how_to_get(path: Path) -> str:
    """Return what to do about a missing token file: its script, files with a similar name, or other data sets."""
    folder = path.parent
    if folder.is_file():
        return f"{folder} is a file: give the folder that it is in"
    names = [file.name for file in folder.iterdir() if file.name not in OF_A_DATA_SET] if folder.is_dir() else []
    similar = difflib.get_close_matches(path.name, sorted(names), cutoff=0.6)
    similar = similar or sorted(name for name in names if name.lower().endswith((path.suffix, ".npy")))
    hint = f"{folder} has {', '.join(similar)}: rename that if it is meant, or " if similar else ""
    if prepare := prepare_command(folder):
        return f"{hint}run `{prepare}`"
    if (folder / OF_A_DATA_SET[0]).is_file():  # half a data set
        return hint.removesuffix(", or ") or _how_to_make_again(folder)
    prepared = sorted(file.parent.name for file in folder.parent.glob("*/train.bin") if file.parent != folder)
    if not prepared:
        return hint.removesuffix(", or ") or f"none is prepared yet (see {folder.parent}/*/prepare.py)"
    close = difflib.get_close_matches(folder.name, prepared, n=1)
    question = f"; did you mean {close[0]}?" if close and not hint else ""
    return f"{hint}set dataset to one of: {', '.join(prepared)}{question}"
