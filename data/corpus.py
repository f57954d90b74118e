"""The way of a corpus: fetched, read, split, and written as train.bin, val.bin and meta.pkl."""

import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from core.errors import DataError
from data.meta import write_meta
from data.tokenizers import Tokenizer

Ids: TypeAlias = Sequence[int] | npt.NDArray[Any]

MAX_ID = 65_535  # a token is stored as uint16
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
    """Fetch `url` to `path`, which appears only when it is whole and its checksum right.

    retries: attempts in all, when the network or the server fails
    wait:    seconds before the second attempt, doubled before each further one
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        for attempt in range(1, retries + 1):
            try:
                digest = _fetch(url, part, timeout)
                break
            except (OSError, http.client.HTTPException, ValueError) as error:
                if attempt == retries or not _may_pass(error):
                    raise DataError(
                        f"cannot download {url} to {path} ({error}): try later, or give --input FILE"
                    ) from error
                time.sleep(wait * 2 ** (attempt - 1))
        if sha256 is not None and digest != sha256:
            raise DataError(f"{url} has sha256 {digest}, wanted {sha256}: give --input FILE instead")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _fetch(url: str, path: Path, timeout: float) -> str:
    digest, size = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=timeout) as response, open(path, "wb") as file:
        while block := response.read(1 << 20):
            file.write(block)
            digest.update(block)
            size += len(block)
        announced = response.headers.get("Content-Length")
    if announced is not None and size != int(announced):
        raise OSError(f"it ended after {size:,} of {int(announced):,} bytes")
    return digest.hexdigest()


def _may_pass(error: Exception) -> bool:
    """Tell a failure worth another attempt from one that would come again, such as 404."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code in {408, 429}
    return not isinstance(error, ValueError)


def read_text(path: str | Path) -> str:
    r"""Read a UTF-8 text; \r\n and \r become \n, as when nanoGPT reads it."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (at byte {error.start:,}): convert it first") from error


def tiny_shakespeare(folder: Path, source: Path | None = None) -> str:
    """Return the text of `source`, else of folder/input.txt, which is downloaded when it is not there."""
    path = source or folder / "input.txt"
    if source is None and not path.exists():
        with _as_data_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
        download(TINY_SHAKESPEARE_URL, path, TINY_SHAKESPEARE_SHA256)
    text = read_text(path)
    known = hashlib.sha256(path.read_bytes()).hexdigest() == TINY_SHAKESPEARE_SHA256
    print(f"{path} is {'the' if known else 'not the'} well-known tiny Shakespeare", file=sys.stderr)
    return text


def split_text(text: str, val_fraction: float = 0.1) -> tuple[str, str]:
    """Cut off the end of the text, by characters, as validation text."""
    cut = int(len(text) * (1 - val_fraction))
    return text[:cut], text[cut:]


def write_text(folder: str | Path, text: str, tokenizer: Tokenizer, val_fraction: float = 0.1) -> None:
    """Split a text, encode both parts, write them, and print nanoGPT's two lines of token counts."""
    train_ids, val_ids = map(tokenizer.encode_ordinary, split_text(text, val_fraction))
    write_bins(folder, train_ids, val_ids, tokenizer)
    print(f"train has {len(train_ids):,} tokens")
    print(f"val has {len(val_ids):,} tokens")


def write_bins(folder: str | Path, train_ids: Ids, val_ids: Ids, tokenizer: Tokenizer) -> None:
    """Write train.bin, val.bin (uint16) and the tokenizer's meta.pkl, if it has one: all, or nothing."""
    write_chunks(folder, [train_ids], [val_ids], tokenizer)


def write_chunks(folder: str | Path, train: Iterable[Ids], val: Iterable[Ids], tokenizer: Tokenizer) -> tuple[int, int]:
    """Do the same from streams of chunks, for a corpus that memory cannot hold; return the token counts."""
    with _all_or_nothing(Path(folder)) as part:
        counts = _write_tokens(part / "train.bin", train), _write_tokens(part / "val.bin", val)
        meta = tokenizer.meta()
        if meta is not None:
            write_meta(part / "meta.pkl", meta)
    return counts


def _write_tokens(path: Path, chunks: Iterable[Ids]) -> int:
    count = 0
    with open(path, "wb") as file:  # not a memmap: on a full disk that dies of SIGBUS, this raises OSError
        for chunk in chunks:
            ids = np.asarray(chunk, dtype=np.int64)
            wrong = ids[(ids < 0) | (ids > MAX_ID)]
            if wrong.size:
                raise DataError(f"token id {wrong[0]} is not between 0 and {MAX_ID}: use a tokenizer with fewer ids")
            file.write(ids.astype(np.uint16).tobytes())
            count += ids.size
    if count < 2:  # one input and one target are the least that can be trained on
        raise DataError(f"the text is too short: {count} tokens for {path.name}, wanted 2 or more")
    return count


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Path]:
    """Yield a folder whose files replace those of `folder` if the block ends well, else vanish."""
    part, new = folder / "prepare.part", not folder.exists()
    with _as_data_error(folder):
        try:
            shutil.rmtree(part, ignore_errors=True)  # left by a run that was killed
            part.mkdir(parents=True)
            yield part
            # val.bin goes first and comes last: a kill in between leaves a data set that is
            # missing a file, never one that mixes an old vocabulary with new tokens
            (folder / "val.bin").unlink(missing_ok=True)
            for name in ("meta.pkl", "train.bin", "val.bin"):
                if (part / name).exists():
                    os.replace(part / name, folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            if new and folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


@contextmanager
def _as_data_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write the data set to {folder}: {error}") from error
