"""The items that batches are made of: an example, or the examples of a pack. Both sources of them can be resumed."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from core.errors import DataError
from data.rows.encoding import Example
from data.rows.order import shuffled, validates
from data.rows.packing import plan_packs

Item = list[Example]  # one, or those of a pack
Encode = Callable[[Mapping[str, Any]], Example | str]
State = dict[str, Any]


class Look(NamedTuple):
    """The first rows of a stream: what became of them, their examples, and how many are cut; tokens of all of these."""

    counts: Mapping[str, int]
    examples: list[Example]

    @property
    def cut(self) -> int:
        """Examples of which the length limit has cut something off."""
        return sum(example.is_cut for example in self.examples)

    @property
    def tokens(self) -> int:
        """The tokens of all these examples."""
        return sum(len(example.input_ids) for example in self.examples)


class Ends(NamedTuple):
    """Where an update must not go on with rows of the next epoch.

    passes: epochs of the whole run, which may end within an epoch; None: endless
    every:  a group of so many epochs ends as well; None: no groups
    """

    passes: float | None = None
    every: int | None = None

    def is_after(self, epoch: int) -> bool:
        """Return whether there is an end after an epoch."""
        of_group = self.every is not None and (epoch + 1) % self.every == 0
        return of_group or (self.passes is not None and epoch + 1 >= self.passes)

    def last_place(self, epoch: int, items: int) -> int:
        """Return how many of an epoch's items come before the end, if that is within it; else all."""
        if self.passes is None or not epoch < self.passes < epoch + 1:
            return items
        return max(1, round(items * (self.passes - epoch)))


class Items(ABC):
    """An endless sequence of items, epoch after epoch."""

    epoch: int  # of the next item

    @abstractmethod
    def take(self, count: int) -> list[Item]:
        """Return the next items."""

    @abstractmethod
    def longest(self, count: int) -> list[Item]:
        """Return the longest items as far as they are known, repeated if there are fewer. The position stays."""

    @abstractmethod
    def state_dict(self) -> State:
        """Return the position of the next item."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Go to a position that `state_dict` returned."""


class TableItems(Items):
    """Items of a table: each example once per epoch, in an order of the seed and the epoch.

    get:     `get(number) -> Example`
    lengths: tokens of each example
    seed:    of the order; None keeps the order of the table
    block:   pack examples into items of at most so many tokens; None: an item is one example
    ends:    when a take must end, so that the next one begins a new epoch; by default nowhere
    """

    def __init__(
        self,
        get: Callable[[int], Example],
        lengths: Sequence[int],
        seed: int | None,
        block: int | None,
        ends: Ends | None = None,
    ) -> None:
        self.get, self.lengths, self.seed, self.block = get, lengths, seed, block
        self.ends = ends or Ends()
        self._begin(0, 0)

    def __len__(self) -> int:
        """Return the number of items in the present epoch."""
        return len(self._order)

    def take(self, count: int) -> list[Item]:
        """Return the next items; fewer if an end comes first, but for a take that begins there."""
        taken: list[Item] = []
        while len(taken) < count:
            last = self.ends.last_place(self.epoch, len(self._order))
            if self.place >= last:
                if taken and (last < len(self._order) or self.ends.is_after(self.epoch)):
                    break
                self._begin(self.epoch + 1, 0)
            taken.append([self.get(number) for number in self._order[self.place]])
            self.place += 1
        return taken

    def longest(self, count: int) -> list[Item]:
        if self.block is not None:  # packs are all of one length
            numbers = self._order[:count]
        else:
            numbers = [[n] for n in sorted(range(len(self.lengths)), key=lambda n: -self.lengths[n])[:count]]
        return [[self.get(n) for n in numbers[place % len(numbers)]] for place in range(count)]

    def count_takes(self, size: int, epochs: float) -> int:
        """Return the number of takes of at most `size` items that so many epochs need."""
        takes, waiting = 0, 0
        for epoch in range(math.ceil(epochs)):
            items = len(self.lengths) if self.block is None else len(self._plan(epoch))
            waiting += Ends(passes=epochs).last_place(epoch, items)
            if self.ends.is_after(epoch) or epoch + 1 >= epochs:
                takes, waiting = takes + math.ceil(waiting / size), 0
        return takes

    def _begin(self, epoch: int, place: int) -> None:
        self.epoch, self.place = epoch, place
        self._order = self._plan(epoch)

    def _plan(self, epoch: int) -> list[list[int]]:
        """Return the items of an epoch, as numbers of examples."""
        order = _order(len(self.lengths), self.seed, epoch)
        return _packed([self.lengths[number] for number in order], order, self.block)

    def state_dict(self) -> State:
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state: State) -> None:
        self._begin(state["epoch"], state["place"])


class StreamItems(Items):
    """Items of a stream that is read from its beginning in each epoch. Pieces of it are shuffled, one after the other.

    A checkpoint has the library's position at the start of the piece at hand, which a resume reads again, and none of
    its rows.

    open_stream: returns a stream that is not shuffled: it yields rows, and has `state_dict` and `load_state_dict`
    encode:      `encode(row) -> Example`, or why it has none
    piece:       rows that are read and shuffled at a time
    seed:        of the order; None keeps the order of the stream
    block:       see `TableItems`
    takes:       `takes(number of the row) -> bool`; None: all rows
    """

    _first_row: int  # of the piece at hand
    _place: int  # of the next item in the piece
    _rows_read: int  # of the piece; fewer than wanted at the end of the stream
    _items: list[Item] | None  # of the piece; None if it is not read yet

    def __init__(
        self,
        open_stream: Callable[[], Any],
        encode: Encode,
        *,
        piece: int,
        seed: int | None,
        block: int | None,
        takes: Callable[[int], bool] | None = None,
    ) -> None:
        self.open_stream, self.encode, self.takes = open_stream, encode, takes
        self.piece, self.seed, self.block = piece, seed, block
        self.counts: Counter[str] = Counter()  # rows that this process has read, by what became of them
        self._begin({"epoch": 0, "first_row": 0, "stream": None, "place": 0})

    def take(self, count: int) -> list[Item]:
        taken: list[Item] = []
        empty_epochs = 0
        while len(taken) < count:
            if self._items is None:
                self._items = self._read_piece()
            if self._place < len(self._items):
                taken.append(self._items[self._place])
                self._place += 1
                empty_epochs = 0
                continue
            if self._rows_read < self.piece:  # the stream has ended
                empty_epochs += 1
                if empty_epochs > 1:
                    reasons = (
                        ", ".join(f"{count} {reason}" for reason, count in self.counts.items()) or "there are none"
                    )
                    raise DataError(f"no row of the stream can be used ({reasons}): look at the data")
                self._begin({"epoch": self.epoch + 1, "first_row": 0, "stream": None, "place": 0})
            else:
                self._first_row, self._place, self._items = self._first_row + self._rows_read, 0, None
        return taken

    def longest(self, count: int) -> list[Item]:
        """Return the first items from the position at hand on: those of a stream are not known before."""
        before = self.state_dict()
        taken = self.take(count)
        self.load_state_dict(before)
        return taken

    def look(self, rows: int = 1000) -> Look:
        """Return what the first rows hold. Only of items from which nothing is taken."""
        self.piece = min(self.piece, rows)
        items = self._read_piece()
        return Look(dict(self.counts), [example for item in items for example in item])

    def _begin(self, state: State) -> None:
        self.epoch, self._first_row, self._place = state["epoch"], state["first_row"], state["place"]
        self._at_start: Any = state["stream"]  # the library's position where the piece begins
        self._stream: Any = None
        self._reader: Iterator[Mapping[str, Any]] | None = None
        self._items, self._rows_read = None, 0

    def _read_piece(self) -> list[Item]:
        """Return the items of the piece at hand, and leave the stream at its end."""
        if self._reader is None:
            self._stream = self.open_stream()
            if self._at_start is not None:
                self._stream.load_state_dict(self._at_start)
            self._reader = iter(self._stream)
        else:
            self._at_start = self._stream.state_dict()
        try:
            rows = list(islice(self._reader, self.piece))
        except Exception as error:  # of many kinds, such as a line that is no JSON
            cause = error.__cause__ or error
            raise DataError(
                f"the stream cannot be read beyond row {self._first_row:,}: {type(cause).__name__}: {cause}"
            ) from error
        self._rows_read = len(rows)
        examples: list[Example] = []
        for number, row in enumerate(rows, self._first_row):
            if self.takes is None or self.takes(number):
                found = self.encode(row)
                self.counts[found if isinstance(found, str) else KEPT] += 1
                examples += [] if isinstance(found, str) else [found]
        order = _order(len(examples), self.seed, self.epoch, self._first_row)
        packs = _packed([len(examples[number].input_ids) for number in order], order, self.block)
        return [[examples[number] for number in pack] for pack in packs]

    def state_dict(self) -> State:
        return {
            "epoch": self.epoch,
            "first_row": self._first_row,
            "stream": self._at_start,
            "place": self._place,
        }

    def load_state_dict(self, state: State) -> None:
        self._begin(state)


KEPT = "kept"


def split_of(share: float, seed: int, validation: bool) -> Callable[[int], bool]:
    """Return `takes(number) -> bool` of the validation rows, which are a share of all, or of the others."""
    return lambda number: bool(validates(np.array([number]), share, seed)[0]) == validation


def _order(count: int, seed: int | None, *place: int) -> list[int]:
    return list(range(count)) if seed is None else [int(number) for number in shuffled(count, seed, *place)]


def _packed(lengths: Sequence[int], order: Sequence[int], block: int | None) -> list[list[int]]:
    """Return the items as numbers of examples. lengths: of the examples in this order"""
    if block is None:
        return [[number] for number in order]
    return [[order[place] for place in pack] for pack in plan_packs(lengths, block)]
