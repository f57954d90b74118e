"""A table's rows as examples: looked through once before training, then encoded again when they are drawn."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from data.rows.encoding import Example
from data.rows.items import KEPT

Encode = Callable[[Mapping[str, Any]], Example | str]
IN_MEMORY = 20_000_000  # tokens of examples that are kept instead of being encoded again
DUPLICATE = "the same as an earlier row"


class Examples:
    """The examples of some rows of a table.

    rows:    has `rows[number] -> row`
    numbers: the rows to look at; those without an example are dropped
    encode:  `encode(row) -> Example`, or why it has none
    drops_duplicates: drop rows that give the ids and labels of an earlier row
    known: hashes of earlier rows, such as those that train where these validate

    lengths:    tokens of each example
    counts:     rows by what became of them
    duplicates: rows that give the same ids and labels as an earlier one
    cut:        examples of which the length limit has cut something off
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        numbers: Sequence[int],
        encode: Encode,
        drops_duplicates: bool = False,
        known: Collection[int] = (),
    ) -> None:
        self.rows, self.encode = rows, encode
        self.counts: Counter[str] = Counter()
        self.numbers: list[int] = []
        self.lengths: list[int] = []
        self.duplicates, self.cut, tokens = 0, 0, 0
        self._kept: list[Example] | None = []
        self.known = set(known)
        for number in numbers:
            found = encode(rows[number])
            if isinstance(found, str):
                self.counts[found] += 1
                continue
            content = found.content()
            is_known = content in self.known
            self.known.add(content)
            if is_known and drops_duplicates:
                self.counts[DUPLICATE] += 1
                continue
            self.duplicates += is_known
            self.counts[KEPT] += 1
            self.cut += found.is_cut
            self.numbers.append(number)
            self.lengths.append(found.length)
            tokens += found.length
            if self._kept is not None:
                self._kept.append(found)
                if tokens > IN_MEMORY:
                    self._kept = None
        self.tokens = tokens

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.numbers)

    def __getitem__(self, number: int) -> Example:
        """Return an example by its number among those that are kept."""
        if self._kept is not None:
            return self._kept[number]
        found = self.encode(self.rows[self.numbers[number]])
        assert isinstance(found, Example)
        return found
