"""Items of tables and of streams: each row once per epoch, and exact positions, also after several resumes."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core.errors import DataError
from data.rows.encoding import Example
from data.rows.items import KEPT, Items, StreamItems, TableItems, split_of

COUNT = 23


class Stream:
    """A stream of rows as the datasets package has it: its position can be saved and restored."""

    opened = 0

    def __init__(self) -> None:
        self.place = 0
        Stream.opened += 1

    def __iter__(self) -> Iterator[dict[str, int]]:
        while self.place < COUNT:
            self.place += 1
            yield {"number": self.place - 1}

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


def encode(row: Any) -> Example | str:
    number = row["number"]
    return "seven" if number == 7 else Example([number] * (number % 5 + 1), [number] * (number % 5 + 1))


def table(block: int | None = None, seed: int | None = 3) -> Items:
    examples = [Example([number] * (number % 5 + 1), []) for number in range(COUNT)]
    return TableItems(examples.__getitem__, [len(example.input_ids) for example in examples], seed, block)


def stream(block: int | None = None, seed: int | None = 3, piece: int = 5, **more: Any) -> StreamItems:
    return StreamItems(Stream, encode, piece=piece, seed=seed, block=block, **more)


def numbers(items: list[Any]) -> list[int]:
    return [example.input_ids[0] for item in items for example in item]


MAKERS: dict[str, Callable[[], Items]] = {
    "table": table,
    "packed": lambda: table(9),
    "stream": stream,
    "packed stream": lambda: stream(9),
    "piece beyond the stream": lambda: stream(piece=100),
    "piece that divides it": lambda: stream(piece=COUNT),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("place", [0, 1, 4, 5, 17, 22, 23, 24, 40, 61])
def test_a_position_is_exact_after_two_resumes(make: Callable[[], Items], place: int) -> None:
    """In the first, second and third epoch, at the edges of pieces and beyond several of them."""
    whole = make()
    expected = [numbers(whole.take(1)) for _ in range(90)]
    first = make()
    first.take(place)
    second = make()
    second.load_state_dict(first.state_dict())
    assert [numbers(second.take(1)) for _ in range(7)] == expected[place : place + 7]
    third = make()
    third.load_state_dict(second.state_dict())
    assert [numbers(third.take(1)) for _ in range(20)] == expected[place + 7 : place + 27]


def test_each_epoch_has_every_row_in_an_order_of_its_own() -> None:
    for items, expected in ((table(), set(range(COUNT))), (stream(), set(range(COUNT)) - {7})):
        epochs = [numbers(items.take(len(expected))) for _ in range(3)]
        assert all(sorted(epoch) == sorted(expected) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 3


def test_without_a_seed_the_order_stays() -> None:
    assert numbers(table(seed=None).take(30)) == [*range(COUNT), *range(7)]
    assert numbers(stream(seed=None).take(25)) == [number for number in [*range(COUNT), *range(3)] if number != 7]


def test_a_stream_is_not_read_ahead_nor_kept() -> None:
    items = stream()
    items.take(6)  # in the second piece
    state = items.state_dict()
    assert state == {"epoch": 0, "first_row": 5, "stream": {"place": 5}, "place": 1}
    assert items.counts == {KEPT: 9, "seven": 1}


def test_rows_are_divided_between_training_and_validation() -> None:
    training, validation = (stream(takes=split_of(0.3, 1, held_out)) for held_out in (False, True))
    parts = [set(numbers(items.take(50))) for items in (training, validation)]  # several epochs
    assert parts[0] | parts[1] == set(range(COUNT)) - {7} and not parts[0] & parts[1]


def test_a_stream_without_examples_ends() -> None:
    items = StreamItems(Stream, lambda row: "empty", piece=5, seed=1, block=None)
    with pytest.raises(DataError, match=rf"^no row of the stream can be used \({2 * COUNT} empty\): look at the data"):
        items.take(1)


def test_the_first_rows_of_a_stream_can_be_looked_at() -> None:
    found = stream(piece=100).look(rows=9)
    assert found.counts == {KEPT: 8, "seven": 1} and len(found.examples) == 8
    assert (found.cut, found.tokens) == (0, sum(number % 5 + 1 for number in range(9) if number != 7))
