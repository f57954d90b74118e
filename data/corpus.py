"""Downloads a text, splits it, and writes train.bin, val.bin and meta.pkl."""

import codecs
import hashlib
import http.client
import logging
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from core.errors import DataError
from core.files import reason, remove, require_file, write_atomically
from data.meta import write_meta
from data.token_file import token_dtype
from data.tokenizers import Tokenizer

Ids: TypeAlias = Sequence[int] | npt.NDArray[Any]

log = logging.getLogger("coregpt")
BYTE_ORDER_MARK = "\ufeff"
MARKS = (  # what a file of each encoding begins with; UTF-32's first, since it begins as UTF-16's does
    *((mark, "utf-32") for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),
    *((mark, "utf-16") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
)
STAGING = "prepare.part"  # sub-folder of a complete new data set, until its files replace the old ones
CHAR_RNN = "https://raw.githubusercontent.com/karpathy/char-rnn/master"
TINY_SHAKESPEARE_URL = f"{CHAR_RNN}/data/tinyshakespeare/input.txt"
TINY_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def download(
    url: str,
    path: str | Path,
    sha256: str | None = None,
    retries: int = 3,
    *,
    timeout: float = 30,
    wait: float = 1,
) -> None:
    """Download `url` to `path`, which is replaced only by a complete file with the right checksum.

    sha256:  expected checksum as a hex string; None skips the check
    retries: maximum number of attempts when the network or the server fails
    timeout: seconds without an answer before an attempt fails
    wait:    seconds before the second attempt, doubled before each further one

    Raises DataError when the last attempt fails or the checksum is wrong.
    """

    def fetch(part: Path) -> None:
        for attempt in range(1, retries + 1):
            try:
                digest = _fetch(url, part, timeout)
                break
            except (OSError, http.client.HTTPException, ValueError) as error:
                if attempt == retries or not _may_succeed_later(error):
                    raise DataError(
                        f"cannot download {url} to {path} ({error}): try later, or give --input FILE"
                    ) from error
                time.sleep(wait * 2 ** (attempt - 1))
        if sha256 is not None and digest != sha256:
            raise DataError(f"{url} has sha256 {digest}, wanted {sha256}: give --input FILE instead")

    write_atomically(Path(path), fetch)


def _fetch(url: str, path: Path, timeout: float) -> str:
    """Write the content of `url` to `path`; return its sha256."""
    digest, size = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=timeout) as response, open(path, "wb") as file:
        while block := response.read(1 << 20):
            file.write(block)
            digest.update(block)
            size += len(block)
        announced = response.headers.get("Content-Length")
    if announced is not None and size != int(announced):
        raise OSError(f"the download ended after {size:,} of {int(announced):,} bytes")
    return digest.hexdigest()


def _may_succeed_later(error: Exception) -> bool:
    """Return False for an error that another attempt would meet again, such as HTTP 404."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code in {408, 429}
    return not isinstance(error, ValueError)


def read_text(path: str | Path) -> str:
    r"""Return the content of a text file; \r\n and \r become \n, as in nanoGPT.

    The text is UTF-8, or UTF-16 or UTF-32 if it begins with the byte-order mark of one of these. Marks are dropped
    wherever they are: files that were joined have some in the middle. Raises DataError for any other file.
    """
    encoding = "utf-8"
    try:
        require_file(Path(path))
        encoding = file_encoding(path)
        text = Path(path).read_text(encoding=encoding)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        name = encoding.upper()
        raise DataError(f"{path} is not {name} text (at byte {error.start:,}): convert it to UTF-8 first") from error
    if 4 * text.count("\0") > len(text):
        raise DataError(f"{path} is not text, or UTF-16 without a byte-order mark: convert it to UTF-8 first")
    inside = text.count(BYTE_ORDER_MARK, 1)
    if inside:
        log.warning(f"{path}: {inside} byte-order marks (U+FEFF) inside of the text are dropped")
    return text.replace(BYTE_ORDER_MARK, "")


def file_encoding(path: str | Path) -> str:
    """Return the encoding of a text file by the mark at its beginning: utf-16, utf-32, else utf-8. Raises OSError."""
    with open(path, "rb") as file:
        head = file.read(4)
    return next((name for mark, name in MARKS if head.startswith(mark)), "utf-8")


def tiny_shakespeare(folder: Path, source: Path | None = None) -> str:
    """Return the text of `source`; without a source, of folder/input.txt, which is downloaded if it is missing."""
    path = source or folder / "input.txt"
    if source is None and not path.exists():
        with as_data_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
        download(TINY_SHAKESPEARE_URL, path, TINY_SHAKESPEARE_SHA256)
    text = read_text(path)
    known = hashlib.sha256(path.read_bytes()).hexdigest() == TINY_SHAKESPEARE_SHA256
    print(f"{path} is {'the' if known else 'not the'} well-known tiny Shakespeare", file=sys.stderr)
    return text


def split_text(text: str, val_fraction: float = 0.1) -> tuple[str, str]:
    """Return the training text and the validation text, the last `val_fraction` of the characters."""
    cut = int(len(text) * (1 - val_fraction))
    return text[:cut], text[cut:]


def write_text(folder: str | Path, text: str, tokenizer: Tokenizer, val_fraction: float = 0.1) -> None:
    """Split and encode a text, write the data set, and print nanoGPT's two lines of token counts."""
    train_ids, val_ids = map(tokenizer.encode_ordinary, split_text(text, val_fraction))
    write_bins(folder, train_ids, val_ids, tokenizer)
    print(f"train has {len(train_ids):,} tokens")
    print(f"val has {len(val_ids):,} tokens")


def write_bins(folder: str | Path, train_ids: Ids, val_ids: Ids, tokenizer: Tokenizer) -> None:
    """Write train.bin, val.bin, and meta.pkl if the tokenizer has one; an error in writing changes no file.

    Ids are uint16, as in nanoGPT. For a vocabulary above 65,536 they are uint32, and meta.pkl says so in `dtype`.
    """
    write_chunks(folder, [train_ids], [val_ids], tokenizer)


def write_chunks(folder: str | Path, train: Iterable[Ids], val: Iterable[Ids], tokenizer: Tokenizer) -> tuple[int, int]:
    """Write the files of `write_bins` from streams of chunks, for a corpus larger than memory.

    Return the token counts of train.bin and val.bin.
    """
    folder, splits = Path(folder), {"train": train, "val": val}
    counts: list[int] = []

    def write(part: Path) -> None:
        part.mkdir(parents=True)
        meta, dtype = tokenizer.meta(), token_dtype({"vocab_size": tokenizer.vocab_size}, folder / "meta.pkl")
        counts.extend([_write_tokens(part / f"{split}.bin", ids, dtype) for split, ids in splits.items()])
        if meta is not None:
            write_meta(part / "meta.pkl", meta if dtype == np.uint16 else {**meta, "dtype": dtype.name})

    new = not folder.exists()
    with as_data_error(folder):
        try:
            remove(folder / STAGING)  # left by a process that was killed while it moved the files
            write_atomically(folder / STAGING, write)
            _move_files(folder / STAGING, folder)
        finally:
            with suppress(OSError):  # keep the error of the block above
                remove(folder / STAGING)
            if new and folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
    return counts[0], counts[1]


def _write_tokens(path: Path, chunks: Iterable[Ids], dtype: np.dtype[Any]) -> int:
    """Write token ids; return their number."""
    count, max_id = 0, np.iinfo(dtype).max
    with open(path, "wb") as file:  # on a full disk this raises OSError; a memmap would kill the process (SIGBUS)
        for chunk in chunks:
            ids = np.asarray(chunk, dtype=np.int64)
            wrong = ids[(ids < 0) | (ids > max_id)]
            if wrong.size:
                raise DataError(f"token id {wrong[0]} is not between 0 and {max_id}: use a tokenizer with fewer ids")
            file.write(ids.astype(dtype).tobytes())
            count += ids.size
    if count < 2:  # training needs one input and one target
        raise DataError(f"the text is too short: {count} tokens for {path.name}, wanted 2 or more")
    return count


def _move_files(source: Path, folder: Path) -> None:
    """Replace the data set in `folder` by the one in `source`.

    The old val.bin is removed first and the new one comes last: a crash in between leaves a data set without val.bin,
    never one that mixes an old vocabulary with new tokens.
    """
    (folder / "val.bin").unlink(missing_ok=True)
    for name in ("meta.pkl", "train.bin", "val.bin"):
        if (source / name).exists():
            os.replace(source / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


@contextmanager
def as_data_error(folder: Path) -> Iterator[None]:
    """Raise DataError in place of an OSError in the block. folder: of the data set that the block writes"""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the data set to {folder}: {reason(error)}; make room or correct the rights there, or work "
            "in another folder"
        ) from error
