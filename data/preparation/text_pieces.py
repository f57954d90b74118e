"""Text files of any size, read in pieces, and the places where a text may be cut without changing its tokens."""

import codecs
import io
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from core.errors import DataError
from core.files import kind_of
from data.corpus import BYTE_ORDER_MARK, file_encoding

log = logging.getLogger("coregpt")
BLOCK_BYTES = 2**16  # with larger ones the allocator keeps several times as much memory
PIECE = 2**17  # characters of a piece
LONGEST_PIECE = 2**24  # characters; a longer text without a place to cut is refused
# Where GPT-2's pattern always begins a word, whatever stands around. No word goes on across white space after another
# character, nor from punctuation into letters and digits, except from an apostrophe (`'s`). White space is never the
# end of a piece, because how it is divided depends on what follows. \S and \w of Python leave out more than the
# pattern's \s, \p{L} and \p{N} do, which is the safe side.
PUNCTUATION = r"!-&(-/:-@\[-^`{-~\u2026\u3001\u3002\u300b\u300d\u300f\uff01\uff09\uff0c\uff1a\uff1b\uff1f"
CUT = re.compile(rf"(?<=\S)(?=[ \n\t])|(?<=[{PUNCTUATION}])(?=[^\W_])")


class FileTexts:
    r"""The text of files, joined as `cat` does. It is read in blocks, again for each call.

    The characters are those of `data.corpus.read_text`: \r\n and \r are \n, byte-order marks are dropped. All methods
    raise DataError for a file that cannot be read or is no text.
    """

    row_end = ""  # files follow each other without anything in between

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def fingerprint(self) -> list[object]:
        """Return values that change when a file is exchanged or written to."""
        found: list[object] = []
        for path in self.paths:
            if kind := kind_of(path):
                raise DataError(f"{path} is {kind}, wanted a file that can be read twice: write the text to one first")
            try:
                status = path.stat()
            except OSError as error:
                raise DataError(f"cannot read {path}: {error.strerror or error}") from error
            found.append([str(path.resolve()), status.st_size, status.st_mtime_ns])
        return found

    def texts(self) -> Iterator[str]:
        """Yield the text in blocks; DataError after a file that is binary, a warning for marks inside of a file."""
        for path in self.paths:
            characters, zeros, marks, is_first = 0, 0, 0, True
            for block in read_blocks(path):
                zeros += block.count("\0")
                marks += block.count(BYTE_ORDER_MARK, 1 if is_first else 0)
                characters, is_first = characters + len(block), False
                yield block.replace(BYTE_ORDER_MARK, "")
            if 4 * zeros > characters:
                raise DataError(f"{path} is not text, or UTF-16 without a byte-order mark: convert it to UTF-8 first")
            if marks:
                log.warning(f"{path}: {marks} byte-order marks (U+FEFF) inside of the text are dropped")

    def read(self, begin: int, end: int) -> Iterator[str]:
        """Yield the characters from `begin` to `end` of the joined text, in blocks."""
        position = 0
        for path in self.paths:
            for block in read_blocks(path):
                text = block.replace(BYTE_ORDER_MARK, "")
                if position + len(text) > begin:
                    yield text[max(begin - position, 0) : end - position]
                position += len(text)
                if position >= end:
                    return
        raise DataError(f"the text ended after {position:,} of {end:,} characters: {CHANGED}")


CHANGED = "a file has changed while it was read; run the command again"


def read_blocks(path: Path) -> Iterator[str]:
    r"""Yield a text file in blocks, with \n as its line ends. DataError if the encoding is not that of its mark."""
    try:
        encoding = file_encoding(path)
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
        with open(path, "rb") as file:
            begin = 0
            while True:
                block = file.read(BLOCK_BYTES)
                waiting = len(decoder.getstate()[0])
                try:
                    text = decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    at = begin - waiting + error.start
                    raise DataError(
                        f"{path} is not {encoding.upper()} text (at byte {at:,}): convert it to UTF-8 first"
                    ) from error
                begin += len(block)
                if text:
                    yield text
                if not block:
                    return
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def pieces(blocks: Iterable[str], size: int = PIECE, longest: int = LONGEST_PIECE) -> Iterator[str]:
    """Yield the text of the blocks in pieces of about `size` characters whose GPT-2 words are those of the whole text.

    Raises DataError for more than `longest` characters in which there is no place to cut.
    """
    waiting: list[str] = []
    length = 0
    for block in blocks:
        waiting.append(block)
        length += len(block)
        if length < size:
            continue
        text = "".join(waiting)
        begin = 0
        while len(text) - begin >= size and (cut := _find_cut(text, begin, size)):
            yield text[begin:cut]
            begin = cut
        waiting, length = [text[begin:]], len(text) - begin
        if length > longest:
            raise DataError(
                f"{length:,} characters without a space, a line end or a punctuation mark between words, after "
                f"{text[begin : begin + 20]!r}, wanted at most {longest:,}: break the line, or use --tokenizer byte"
            )
    if length:
        yield "".join(waiting)


def _find_cut(text: str, begin: int, size: int) -> int | None:
    """Return the last place to cut in the `size` characters from `begin` on, or the first after them; None without."""
    start, window = begin + size, 256
    while start > begin:  # backwards in growing steps: most texts have a space within the last few characters
        start, window = max(begin + size - window, begin), 4 * window
        found = [match.start() for match in CUT.finditer(text, start, begin + size) if match.start() > begin]
        if found:
            return found[-1]
    match = CUT.search(text, max(begin + size - 1, begin + 1))
    return match.start() if match else None
