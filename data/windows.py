"""Random rows of a file of token ids; a row starts anywhere, at a paragraph break, or at a line."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from core.errors import ConfigError, DataError
from data.token_file import TokenFile

STARTS = ("anywhere", "paragraph", "line")
SCANNED_TOKENS = 2**24  # tokens per step of the search for newlines


class Windows:
    """Rows of `length` tokens of a file. The constructor reads the file once to find the possible start positions.

    file:         the token file, or its path. Call `check_vocab` of a TokenFile to have the rows checked
    start:        `anywhere`  every position with `length` tokens from there on
                  `paragraph` every position of two consecutive newlines, except the first token of the file
                  `line`      the beginning of every line that is not empty; a row holds as many complete lines as fit,
                              and padding. A line longer than a row is cut
    newline_ids:  the tokens that end a line; not needed for `anywhere`
    pad_token_id: pads the rows of `line`; not needed for the others

    Raises DataError when the file is missing, no token file, too short, or has no start position.
    """

    def __init__(
        self,
        file: TokenFile | str | Path,
        length: int,
        *,
        start: str = "anywhere",
        newline_ids: Collection[int] = (),
        pad_token_id: int | None = None,
    ) -> None:
        if start not in STARTS:
            raise ConfigError(f"windows start at {start!r}, wanted one of {', '.join(STARTS)}")
        if start != "anywhere" and not newline_ids:
            raise ConfigError(f"windows that start at a {start} need a newline in the vocabulary: use another data set")
        if start == "line" and pad_token_id is None:
            raise ConfigError("windows that start at a line need a padding token: give the vocabulary one")
        needed = 1 if start == "line" else length
        self.file = file if isinstance(file, TokenFile) else TokenFile(file, needed)
        self.file.require(needed)
        self.length = length
        self.fill = 0 if pad_token_id is None else pad_token_id
        self.starts: npt.NDArray[np.int64] | range
        self.sizes: npt.NDArray[np.int64] | None = None  # tokens of the row at each start; None: all rows are full
        tokens = len(self.file)
        if start == "anywhere":
            self.starts = range(tokens - length + 1)
        elif start == "paragraph":
            self.starts = _paragraphs(self._newlines(newline_ids), tokens - length)
        else:
            self.starts, self.sizes = _lines(self._newlines(newline_ids), tokens, length)
        if not len(self.starts):
            wanted = (
                "a line that is not empty" if start == "line" else f"two newlines with {length} tokens from there on"
            )
            raise DataError(f"{self.file.path} has no start position: wanted {wanted}; use another text or start")

    def draw(self, rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return random rows (rows, length) int64 and their lengths without padding (rows,) int64."""
        picks = torch.randint(len(self.starts), (rows,), generator=generator).numpy()
        sizes = np.full(rows, self.length) if self.sizes is None else self.sizes[picks]
        tokens = np.full((rows, self.length), self.fill, dtype=np.int64)
        crops = self.file.read([int(self.starts[pick]) for pick in picks.tolist()], sizes.tolist())
        for row, size, end in zip(tokens, sizes.tolist(), np.cumsum(sizes).tolist(), strict=True):
            row[:size] = crops[end - size : end]
        return torch.from_numpy(tokens), torch.from_numpy(sizes)

    def _newlines(self, newline_ids: Collection[int]) -> npt.NDArray[np.int64]:
        """Return the positions of all newlines."""
        tokens, wanted = self.file.map(), np.array(list(newline_ids))
        parts = [
            np.flatnonzero(np.isin(tokens[begin : begin + SCANNED_TOKENS], wanted)) + begin
            for begin in range(0, len(tokens), SCANNED_TOKENS)
        ]
        positions: npt.NDArray[np.int64] = np.concatenate(parts)
        return positions


def _paragraphs(newlines: npt.NDArray[np.int64], last: int) -> npt.NDArray[np.int64]:
    """Return the positions of two consecutive newlines, from position 1 to `last`."""
    firsts: npt.NDArray[np.int64] = newlines[:-1][np.diff(newlines) == 1]
    return firsts[(firsts >= 1) & (firsts <= last)]


def _lines(
    newlines: npt.NDArray[np.int64], tokens: int, length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first position of each line that is not empty, and the number of tokens in a row from there."""
    ends = newlines + 1
    if not len(ends) or ends[-1] < tokens:
        ends = np.append(ends, tokens)  # the text does not end in a newline
    bounds = np.concatenate([[0], ends])
    full = np.ones(len(ends), dtype=bool)
    full[: len(newlines)] = bounds[: len(newlines)] < newlines  # an empty line is a newline alone
    begins = bounds[:-1][full]
    last = bounds[np.searchsorted(ends, begins + length, side="right")]  # end of the last line that fits
    return begins, np.where(last > begins, last - begins, length)
