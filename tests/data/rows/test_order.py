"""The order of rows: of the seeds alone, and the same for ever."""

import numpy as np

from data.rows.order import keys, shuffled, validates


def test_an_order_is_a_permutation_of_its_seeds() -> None:
    first = shuffled(100, 1, 0)
    assert sorted(first) == list(range(100)) and first.tolist() == shuffled(100, 1, 0).tolist()
    others = [shuffled(100, *seeds).tolist() for seeds in ((1, 1), (2, 0), (1,), (0, 1))]
    assert first.tolist() not in others and len({tuple(order) for order in others}) == 4
    assert shuffled(0, 1).tolist() == []


def test_an_order_never_changes() -> None:
    """A resume under another version of NumPy goes on with the same rows."""
    assert shuffled(8, 1337, 0).tolist() == [0, 5, 6, 1, 4, 3, 7, 2]


def test_every_place_is_as_likely() -> None:
    places = np.array([shuffled(10, 7, epoch).tolist().index(3) for epoch in range(2000)])
    counts = np.bincount(places, minlength=10)
    assert counts.min() > 140 and counts.max() < 260  # 200 each, with a deviation of 13


def test_the_share_of_validation_rows_does_not_depend_on_their_number() -> None:
    chosen = validates(np.arange(20_000), 0.1, 42)
    assert 0.09 < chosen.mean() < 0.11
    assert (chosen[:50] == validates(np.arange(50), 0.1, 42)).all()
    assert (chosen != validates(np.arange(20_000), 0.1, 43)).any()
    assert len(set(keys(np.arange(1000), 5).tolist())) == 1000
