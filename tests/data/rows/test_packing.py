"""Packs: every example once, whole, in few blocks."""

import random

from data.rows.packing import WINDOW, plan_packs


def test_each_example_is_in_one_pack_that_has_room_for_it() -> None:
    draw = random.Random(1)
    lengths = [draw.randint(1, 32) for _ in range(2 * WINDOW + 7)]
    packs = plan_packs(lengths, 32)

    assert sorted(number for pack in packs for number in pack) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in pack) <= 32 and pack == sorted(pack) for pack in packs)
    assert len(packs) <= 1.05 * sum(lengths) / 32  # at most a twentieth is padding
    assert packs == plan_packs(lengths, 32) and plan_packs([], 32) == []


def test_packs_hold_neighbours() -> None:
    packs = plan_packs([8] * (3 * WINDOW), 32)
    assert max(max(pack) - min(pack) for pack in packs) < WINDOW
    assert packs[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_an_example_as_long_as_the_block_is_alone() -> None:
    assert plan_packs([5, 8, 3, 8], 8) == [[0, 2], [1], [3]]
