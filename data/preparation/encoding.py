"""Texts to arrays of ids in several threads: tiktoken works outside of Python's lock, and so do NumPy's tables."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from data.package_tokenizers import TiktokenTokenizer
from data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer

Array: TypeAlias = npt.NDArray[Any]
UNKNOWN = 2**32 - 1
PIECES_PER_WORKER = 2  # waiting or at work: enough that no thread waits for the reader


class Piece(NamedTuple):
    """A part of a text, or some rows of a data set.

    units: how far it goes in the text: characters, or rows
    texts: what is encoded, each by itself
    """

    units: int
    texts: list[str]


def array_encoder(tokenizer: Tokenizer) -> Callable[[str], Array]:
    """Return a function from a text to the array of its ids, those of `tokenizer.encode_ordinary`."""
    if isinstance(tokenizer, TiktokenTokenizer):
        return _by_tiktoken(tokenizer)
    if isinstance(tokenizer, CharTokenizer):
        return _by_character(tokenizer)
    if isinstance(tokenizer, ByteTokenizer):
        return lambda text: np.frombuffer(text.encode("utf-8", errors="replace"), np.uint8)
    return lambda text: np.array(tokenizer.encode_ordinary(text), np.uint32)


def _by_tiktoken(tokenizer: TiktokenTokenizer) -> Callable[[str], Array]:
    encode = getattr(tokenizer.encoding, "encode_to_numpy", None)  # tiktoken 0.9 and later

    def encode_text(text: str) -> Array:
        if encode is not None:
            try:
                ids: Array = encode(text, disallowed_special=())
                return ids
            except UnicodeEncodeError:  # half of a surrogate pair, which `encode_ordinary` replaces
                pass
        return np.array(tokenizer.encode_ordinary(text), np.uint32)

    return encode_text


def _by_character(tokenizer: CharTokenizer) -> Callable[[str], Array]:
    numbers = {ord(character): number for character, number in tokenizer.stoi.items()}
    table = np.full(max(numbers, default=0) + 2, UNKNOWN, np.uint32)  # the last entry is for all larger ones
    for code, number in numbers.items():
        table[code] = number

    def encode_text(text: str) -> Array:
        codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)
        ids: Array = table[np.minimum(codes, len(table) - 1)]
        if ids.size and ids.max() == UNKNOWN:
            tokenizer.encode(text)  # raises the error that names the characters
        return ids

    return encode_text


def encode_in_order(
    pieces: Iterable[Piece], tokenizer: Tokenizer, dtype: np.dtype[Any], workers: int, end: int | None = None
) -> Iterator[tuple[int, Array]]:
    """Yield the units and the ids of each piece, in order.

    dtype:   of the ids
    workers: threads that encode
    end:     an id that follows each text; None adds nothing

    At most PIECES_PER_WORKER pieces per thread are in memory. Raises what reading the pieces raises.
    """
    encode = array_encoder(tokenizer)
    ending = [] if end is None else [np.array([end], dtype)]

    def work(piece: Piece) -> Array:
        parts = [part for text in piece.texts for part in (encode(text).astype(dtype), *ending)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype), *parts])

    waiting: deque[tuple[int, Future[Array]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for piece in pieces:
                waiting.append((piece.units, pool.submit(work, piece)))
                if len(waiting) >= PIECES_PER_WORKER * workers:
                    units, ids = waiting.popleft()
                    yield units, ids.result()
            while waiting:
                units, ids = waiting.popleft()
                yield units, ids.result()
        finally:
            for _, ids in waiting:
                ids.cancel()


def end_id(tokenizer: Tokenizer) -> int | None:
    """Return the id of <|endoftext|>; None if the tokenizer has none."""
    return int(tokenizer.encoding.eot_token) if isinstance(tokenizer, TiktokenTokenizer) else None
