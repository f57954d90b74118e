"""Which examples share a block, so that little of it is padding."""

from bisect import bisect_left, insort
from collections.abc import Sequence

WINDOW = 1000  # examples whose packs are planned together: of neighbours in the order of an epoch


def plan_packs(lengths: Sequence[int], block: int) -> list[list[int]]:
    """Return the packs of examples, each with the numbers of its examples in ascending order.

    No example is divided, and each is in one pack: best fit, the longest first, within windows of neighbours. Packs are
    in the order of their first examples.

    lengths: of the examples, at most `block` each
    """
    packs: list[list[int]] = []
    for start in range(0, len(lengths), WINDOW):
        window = range(start, min(start + WINDOW, len(lengths)))
        packs += _best_fit(sorted(window, key=lambda number: (-lengths[number], number)), lengths, block)
    return packs


def _best_fit(order: Sequence[int], lengths: Sequence[int], block: int) -> list[list[int]]:
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (free tokens, number of the pack), ascending
    for number in order:
        place = bisect_left(rooms, (lengths[number], -1))
        if place == len(rooms):
            free, pack = block, len(packs)
            packs.append([])
        else:
            free, pack = rooms.pop(place)
        packs[pack].append(number)
        insort(rooms, (free - lengths[number], pack))
    return sorted(sorted(pack) for pack in packs)
