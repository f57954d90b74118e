"""Masks and corruption: against plain-Python references given the same draws, by exact counts, and by statistics."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.masking import (
    corrupt,
    corruption_rate,
    line_mask,
    mask_one_at_least,
    random_mask,
    replace_random,
    span_mask,
    sticky_mask,
    uniform_mask,
)

VOCAB, MASK_ID, NEWLINE = 11, 11, 0
RATIOS = [0.0, 0.01, 0.15, 0.4, 0.55, 0.9, 1.0]

Rows = list[list[bool]]
Mask = Callable[[torch.Tensor, torch.Generator, torch.Tensor | None], torch.Tensor]

STRATEGIES: dict[str, Mask] = {
    "uniform": lambda tokens, draw, lengths: uniform_mask(tokens, 0.3, draw, lengths),
    "random": lambda tokens, draw, lengths: random_mask(tokens, 0.8, draw, lengths),
    "sticky": lambda tokens, draw, lengths: sticky_mask(tokens, 0.5, 0.1, 0.4, draw, lengths),
    "apart": lambda tokens, draw, lengths: sticky_mask(tokens, 0.9, 0.3, 0.0, draw, lengths),
    "span": lambda tokens, draw, lengths: span_mask(tokens, 3, draw, lengths),
    "line": lambda tokens, draw, lengths: line_mask(tokens, NEWLINE, 0.1, 0.6, draw, lengths),
    "replace": lambda tokens, draw, lengths: replace_random(tokens, 0.5, 1.0, VOCAB, draw, lengths)[1],
    "replace sticky": lambda tokens, draw, lengths: replace_random(tokens, 0.5, 0.5, VOCAB, draw, lengths)[1],
}


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor | None, int]:
    """Rows of tokens, the lengths of their contents or None, and a seed."""
    rows, width = draw(st.integers(0, 4)), draw(st.sampled_from([1, 2, 3, 8, 33]))
    seed = draw(st.integers(0, 2**31))
    tokens = torch.randint(VOCAB, (rows, width), generator=seeded(seed + 1)) // draw(st.sampled_from([1, 4]))
    lengths = torch.tensor(draw(st.lists(st.integers(0, width), min_size=rows, max_size=rows)), dtype=torch.int64)
    return tokens, draw(st.sampled_from([lengths, None])), seed


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sizes(tokens: torch.Tensor, lengths: torch.Tensor | None) -> list[int]:
    return [tokens.shape[1]] * len(tokens) if lengths is None else lengths.tolist()


def words(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, width), generator=seeded(seed))


def within(value: float, expected: float, deviation: float) -> bool:
    return abs(value - expected) <= 3 * deviation


# all strategies


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=30, deadline=None)
@given(batch=batches())
def test_masks_stay_in_the_content_and_depend_on_the_seed_alone(
    name: str, batch: tuple[torch.Tensor, torch.Tensor | None, int]
) -> None:
    tokens, lengths, seed = batch
    original, state = tokens.clone(), torch.get_rng_state()

    mask = STRATEGIES[name](tokens, seeded(seed), lengths)
    torch.rand(1)  # the global generator moves on, and that must not matter
    again = STRATEGIES[name](tokens, seeded(seed), lengths)

    assert mask.dtype == torch.bool and mask.shape == tokens.shape
    for row, size in zip(mask.tolist(), sizes(tokens, lengths), strict=True):
        assert not any(row[size:])
    assert torch.equal(mask, again) and torch.equal(tokens, original)
    torch.set_rng_state(state)
    STRATEGIES[name](tokens, seeded(seed), lengths)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", STRATEGIES)
def test_another_seed_gives_another_mask(name: str) -> None:
    tokens = words(4, 200)

    assert not torch.equal(STRATEGIES[name](tokens, seeded(1), None), STRATEGIES[name](tokens, seeded(2), None))


@pytest.mark.parametrize("name", STRATEGIES)
def test_rows_of_full_content_are_rows_without_lengths(name: str) -> None:
    tokens = words(3, 50)
    full = torch.full((3,), 50)

    assert torch.equal(STRATEGIES[name](tokens, seeded(1), None), STRATEGIES[name](tokens, seeded(1), full))


# uniform and random


@settings(max_examples=60, deadline=None)
@given(batch=batches(), ratio=st.sampled_from(RATIOS))
def test_uniform_and_random_equal_a_loop(batch: tuple[torch.Tensor, torch.Tensor | None, int], ratio: float) -> None:
    """random: a draw per row, then one per position."""
    tokens, lengths, seed = batch
    rows, width = tokens.shape

    draw = seeded(seed)
    shares = torch.rand(rows, 1, generator=draw, dtype=torch.float64).tolist()
    draws = torch.rand(rows, width, generator=draw).tolist()
    expected = [
        [at < size and draws[row][at] < ratio * shares[row][0] for at in range(width)]
        for row, size in enumerate(sizes(tokens, lengths))
    ]
    assert random_mask(tokens, ratio, seeded(seed), lengths).tolist() == expected

    draws = torch.rand(rows, width, generator=seeded(seed)).tolist()
    expected = [
        [at < size and draws[row][at] < ratio for at in range(width)] for row, size in enumerate(sizes(tokens, lengths))
    ]
    assert uniform_mask(tokens, ratio, seeded(seed), lengths).tolist() == expected


def test_the_share_of_random_is_half_its_limit_and_spreads_evenly() -> None:
    """A row's share is m * U(0, 1), give or take its binomial noise."""
    rows, width, limit = 4000, 400, 0.6
    shares = random_mask(words(rows, width), limit, seeded(3)).double().mean(dim=1)
    spread = limit**2 / 12 + (limit / 2 - limit**2 / 3) / width  # variance of a row's share

    assert within(shares.mean().item(), limit / 2, (spread / rows) ** 0.5)
    assert within(shares.var().item(), spread, spread * (0.8 / rows) ** 0.5)  # kurtosis 1.8 of a uniform
    below = (shares < limit / 4).double().mean().item()
    assert within(below, 0.25, (0.25 * 0.75 / rows) ** 0.5)


def test_a_uniform_probability_is_kept_at_every_position() -> None:
    rows = 20_000
    shares = uniform_mask(words(rows, 8), 0.15, seeded(4)).double().mean(dim=0)

    assert all(within(share, 0.15, (0.15 * 0.85 / rows) ** 0.5) for share in shares.tolist())


# sticky


def sticky_loop(size: int, width: int, wanted: list[int], p: tuple[float, float], draw: torch.Generator) -> Rows:
    """Grow masks with loops, in rows that all have `size` tokens of content."""
    rows = len(wanted)
    masked = [[False] * width for _ in range(rows)]
    number = 0
    while True:
        chances = [[0.0] * width for _ in range(rows)]
        for row in range(rows):
            if sum(masked[row]) >= wanted[row] or number >= min(1000, 10 * wanted[row]):
                continue
            for at in range(size):
                if not masked[row][at]:
                    beside = (at > 0 and masked[row][at - 1]) or (at + 1 < width and masked[row][at + 1])
                    chances[row][at] = p[1] if beside else p[0]
        if not any(map(any, chances)):
            return masked
        draws = torch.rand(rows, width, generator=draw).tolist()
        for row in range(rows):
            for at in range(width):
                masked[row][at] |= draws[row][at] < chances[row][at]
        number += 1


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    width=st.sampled_from([1, 2, 3, 8, 33]),
    short=st.integers(0, 3),
    ratio=st.sampled_from(RATIOS),
    p1=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    p2=st.sampled_from([0.0, 0.05, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_sticky_grows_like_a_loop(
    rows: int, width: int, short: int, ratio: float, p1: float, p2: float, seed: int
) -> None:
    """The final mask is the loop's where there is no surplus, and a part of it of the right size where there is."""
    size = max(0, width - short)
    wanted = max(1, math.ceil(ratio * size)) if ratio > 0 and size > 0 else 0
    grown = sticky_loop(size, width, [wanted] * rows, (p1, p2), seeded(seed))

    mask = sticky_mask(words(rows, width), ratio, p1, p2, seeded(seed), torch.full((rows,), size)).tolist()

    for row, loop in zip(mask, grown, strict=True):
        assert sum(row) == min(wanted, sum(loop))
        assert all(was for is_masked, was in zip(row, loop, strict=True) if is_masked)


@settings(max_examples=60, deadline=None)
@given(batch=batches(), ratio=st.sampled_from(RATIOS))
def test_sticky_counts_are_exact(batch: tuple[torch.Tensor, torch.Tensor | None, int], ratio: float) -> None:
    tokens, lengths, seed = batch

    counts = sticky_mask(tokens, ratio, 0.5, 0.5, seeded(seed), lengths).sum(dim=1).tolist()

    assert counts == [min(size, max(1, math.ceil(ratio * size))) if ratio > 0 else 0 for size in sizes(tokens, lengths)]


def test_sticky_counts_are_exact_in_rows_of_many_lengths() -> None:
    lengths = torch.arange(257)
    for p1, p2 in ((0.1, 0.9), (0.3, 0.1), (0.15, 0.3)):
        mask = sticky_mask(words(257, 256), 0.4, p1, p2, seeded(5), lengths)

        assert mask.sum(dim=1).tolist() == [math.ceil(0.4 * size) for size in range(257)]


def test_a_surplus_is_taken_back_evenly() -> None:
    """With p1 = 1 the first round masks all, so that the rest is a random subset: 3 of 8 at each position."""
    rows = 20_000
    mask = sticky_mask(words(rows, 8), 3 / 8, 1.0, 1.0, seeded(6))

    assert set(mask.sum(dim=1).tolist()) == {3}
    for share in mask.double().mean(dim=0).tolist():
        assert within(share, 3 / 8, (3 / 8 * 5 / 8 / rows) ** 0.5)
    together = (mask[:, 0] & mask[:, 1]).double().mean().item()  # 3 of 8, then 2 of 7
    assert within(together, 6 / 56, (6 / 56 * 50 / 56 / rows) ** 0.5)


def test_p2_makes_clusters() -> None:
    """A lone share of 0.4 would have a masked right neighbour in 0.4 of the cases."""
    beside = {}
    for p1, p2 in ((0.02, 0.9), (0.3, 0.0), (0.3, 0.3)):
        mask = sticky_mask(words(200, 500), 0.4, p1, p2, seeded(7))
        beside[p2] = (mask[:, 1:] & mask[:, :-1]).sum().item() / mask[:, :-1].sum().item()

    assert beside[0.9] > 0.7
    assert 0.38 < beside[0.3] < 0.42
    assert beside[0.0] < 0.38


def test_with_p1_of_zero_nothing_is_masked() -> None:
    assert not sticky_mask(words(4, 50), 0.5, 0.0, 1.0, seeded(8)).any()


def test_single_tokens_stop_when_there_is_no_room() -> None:
    """From one seed at a time and p2 = 0, no two neighbours can both be masked once the first is."""
    mask = sticky_mask(words(50, 100), 1.0, 0.001, 0.0, seeded(9))

    counts = mask.sum(dim=1)
    assert (counts < 60).all() and (counts > 20).all()


def test_the_rounds_of_each_row_are_limited() -> None:
    """A row that wants one position has ten rounds, each with a probability of 0.01, and its longer neighbours more."""
    rows = 20_000
    lengths = torch.ones(rows, dtype=torch.int64)
    lengths[::100] = 3

    mask = sticky_mask(words(rows, 3), 1.0, 0.01, 0.01, seeded(10), lengths)

    reached = 1 - 0.99**10
    share = mask[lengths == 1, 0].double().mean().item()
    assert within(share, reached, (reached * (1 - reached) / rows) ** 0.5)


# spans


@settings(max_examples=60, deadline=None)
@given(batch=batches(), spans=st.sampled_from([1, 2, 5, 20]))
def test_spans_equal_a_loop(batch: tuple[torch.Tensor, torch.Tensor | None, int], spans: int) -> None:
    tokens, lengths, seed = batch
    rows, width = tokens.shape
    draws = torch.rand(rows, 2 * spans, generator=seeded(seed), dtype=torch.float64).tolist()
    expected = [[False] * width for _ in range(rows)]
    for row, size in enumerate(sizes(tokens, lengths)):
        ends = sorted(math.floor(draw * size) for draw in draws[row])
        for begin, end in zip(ends[::2], ends[1::2], strict=True):
            for at in range(begin, end + 1):
                expected[row][at] = size > 1

    assert span_mask(tokens, spans, seeded(seed), lengths).tolist() == expected


@pytest.mark.parametrize("spans", [1, 4, 20])
def test_spans_cover_about_half_of_the_content(spans: int) -> None:
    """S of the 2S + 1 gaps between sorted points, and one position more per span; ends that meet count twice here."""
    rows, width = 4000, 2000
    lengths = torch.full((rows,), 1600)
    shares = span_mask(words(rows, width), spans, seeded(11), lengths)[:, :1600].double().mean(dim=1)

    expected = spans / (2 * spans + 1) + spans / 1600 - (spans - 1) * spans / 1600**2
    assert within(shares.mean().item(), expected, shares.std().item() / rows**0.5)


# lines


def line_loop(row: list[int]) -> list[list[int]]:
    """Return the positions of each line of a row."""
    lines: list[list[int]] = [[]]
    for at, token in enumerate(row):
        lines[-1].append(at)
        if token == NEWLINE:
            lines.append([])
    return [line for line in lines if line]


@settings(max_examples=100, deadline=None)
@given(batch=batches(), ratios=st.sampled_from([(0.0, 0.0), (0.1, 0.45), (0.5, 0.5), (0.0, 1.0), (1.0, 1.0)]))
def test_lines_equal_a_loop(batch: tuple[torch.Tensor, torch.Tensor | None, int], ratios: tuple[float, float]) -> None:
    """A draw per row says how many lines, and a lot per line which: the lowest ones."""
    tokens, lengths, seed = batch
    rows, width = tokens.shape
    draw = seeded(seed)
    shares = torch.rand(rows, generator=draw, dtype=torch.float64).tolist()
    lots = torch.randint(2**40, (rows, width), generator=draw).tolist()
    expected = [[False] * width for _ in range(rows)]
    for row, size in enumerate(sizes(tokens, lengths)):
        lines = line_loop(tokens[row, :size].tolist())
        count = max(1, round((ratios[0] + shares[row] * (ratios[1] - ratios[0])) * len(lines)))
        for line in sorted(range(len(lines)), key=lambda line: (lots[row][line], line))[:count]:
            for at in lines[line]:
                expected[row][at] = True

    assert line_mask(tokens, NEWLINE, *ratios, seeded(seed), lengths).tolist() == expected


def test_the_share_of_lines_lies_between_the_ratios() -> None:
    """Rows of 100 lines of 3 tokens: the mean share is the middle, each line is as likely as any, none is torn."""
    rows = 2000
    tokens = torch.tensor([1, 2, NEWLINE]).repeat(rows, 100)
    lines = line_mask(tokens, NEWLINE, 0.1, 0.5, seeded(12)).view(rows, 100, 3)

    assert torch.equal(lines.any(dim=2), lines.all(dim=2))
    shares = lines[:, :, 0].double().mean(dim=1)
    assert shares.min() >= 0.1 and shares.max() <= 0.5
    assert within(shares.mean().item(), 0.3, (0.4**2 / 12 / rows) ** 0.5)
    first, last = lines[:, 0, 0].double().mean().item(), lines[:, -1, 0].double().mean().item()
    assert within(first, 0.3, (0.3 * 0.7 / rows) ** 0.5) and within(last, 0.3, (0.3 * 0.7 / rows) ** 0.5)


# corruption


@settings(max_examples=60, deadline=None)
@given(batch=batches(), ratio=st.sampled_from(RATIOS))
def test_corruption_equals_a_loop(batch: tuple[torch.Tensor, torch.Tensor | None, int], ratio: float) -> None:
    tokens, lengths, seed = batch
    mask = uniform_mask(tokens, ratio, seeded(seed + 2), lengths)
    draw = seeded(seed)
    draws = torch.rand(tokens.shape, generator=draw).tolist()
    others = torch.randint(VOCAB, tokens.shape, generator=draw).tolist()
    expected = tokens.tolist()
    for row, line in enumerate(mask.tolist()):
        for at, masked in enumerate(line):
            if masked and draws[row][at] < 0.8:
                expected[row][at] = MASK_ID
            elif masked and draws[row][at] < 0.9:
                expected[row][at] = others[row][at]

    assert corrupt(tokens, mask, MASK_ID, VOCAB, seeded(seed)).tolist() == expected


def test_the_shares_are_80_10_10() -> None:
    """Tokens are all 3, so that one random token in 11 looks like a kept one."""
    tokens = torch.full((100, 1000), 3)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    seen = corrupt(tokens, mask, MASK_ID, VOCAB, seeded(13))

    n = tokens.numel()
    for token, expected in [(MASK_ID, 0.8), (3, 0.1 + 0.1 / VOCAB)] + [(other, 0.1 / VOCAB) for other in (0, 5, 10)]:
        share = (seen == token).double().mean().item()
        assert within(share, expected, (expected * (1 - expected) / n) ** 0.5), token
    assert seen.max() == MASK_ID and seen.min() == 0


def test_corruption_changes_neither_other_positions_nor_arguments() -> None:
    tokens, mask = words(4, 100), uniform_mask(words(4, 100), 0.5, seeded(1))
    original, state = tokens.clone(), torch.get_rng_state()

    seen = corrupt(tokens, mask, MASK_ID, VOCAB, seeded(2))

    assert torch.equal(seen[~mask], tokens[~mask]) and not torch.equal(seen, tokens)
    assert torch.equal(tokens, original) and torch.equal(torch.get_rng_state(), state)


# corruption for token classification


@pytest.mark.parametrize(("iter_num", "expected"), [(0, 0.05), (500, 0.475), (999, 0.89915), (1000, 0.9), (5000, 0.9)])
def test_the_corruption_rate_warms_up(iter_num: int, expected: float) -> None:
    assert corruption_rate(iter_num, 0.1, 0.95, 1000) == pytest.approx(expected, abs=1e-9)


def test_without_a_warm_up_the_rate_is_at_its_top() -> None:
    assert corruption_rate(0, 0.1, 0.95, 0) == 0.9


def test_independent_replacement_equals_a_loop_and_counts_repeats() -> None:
    tokens, draw = words(5, 300), seeded(14)
    draws = torch.rand(tokens.shape, generator=draw).tolist()
    others = torch.randint(VOCAB, tokens.shape, generator=draw).tolist()

    seen, changed = replace_random(tokens, 0.4, 1.0, VOCAB, seeded(14))

    for row in range(5):
        for at in range(300):
            assert changed[row, at].item() == (draws[row][at] < 0.4)
            assert seen[row, at].item() == (others[row][at] if changed[row, at] else tokens[row, at].item())
    assert (changed & (seen == tokens)).any()  # one replacement in 11


@settings(max_examples=60, deadline=None)
@given(batch=batches(), rate=st.sampled_from(RATIOS), ratio=st.sampled_from([0.5, 0.9, 1.2, 4.0]))
def test_sticky_replacement_changes_an_exact_share(
    batch: tuple[torch.Tensor, torch.Tensor | None, int], rate: float, ratio: float
) -> None:
    """Exact but for the limit on rounds, which a few wanted positions at a low rate can reach."""
    tokens, lengths, seed = batch

    seen, changed = replace_random(tokens, rate, ratio, VOCAB, seeded(seed), lengths)

    assert torch.equal(changed, seen != tokens)
    assert seen.numel() == 0 or (seen.min() >= 0 and seen.max() < VOCAB)
    for count, size in zip(changed.sum(dim=1).tolist(), sizes(tokens, lengths), strict=True):
        assert count == math.floor(rate * size) if rate >= 0.4 and size > 30 else count <= math.floor(rate * size)


def test_sticky_replacements_are_even_among_the_other_tokens() -> None:
    tokens = torch.full((100, 1000), 3)
    seen, changed = replace_random(tokens, 0.5, 2.0, VOCAB, seeded(15))

    counts = torch.bincount(seen[changed], minlength=VOCAB).tolist()
    assert counts[3] == 0 and sum(counts) == 50_000
    assert all(within(count, 5000, (50_000 * 0.1 * 0.9) ** 0.5) for count in counts[:3] + counts[4:])


@pytest.mark.parametrize(("ratio", "p1", "p2"), [(4.0, 0.1, 0.025), (0.25, 0.025, 0.1)])
def test_p1_and_p2_follow_from_rate_and_ratio(ratio: float, p1: float, p2: float) -> None:
    """The larger is rate / 4, lowered by the share of draws that repeat the original."""
    tokens, true = words(20, 500), 1 - 1 / VOCAB

    _, changed = replace_random(tokens, 0.4, ratio, VOCAB, seeded(16))

    assert torch.equal(changed, sticky_mask(tokens, 0.4, p1 * true, p2 * true, seeded(16)))


def test_a_vocabulary_of_one_cannot_change() -> None:
    tokens = torch.zeros(2, 20, dtype=torch.int64)

    seen, changed = replace_random(tokens, 0.5, 2.0, 1, seeded(17))

    assert not changed.any() and torch.equal(seen, tokens)


def test_a_batch_without_masks_gets_one() -> None:
    inputs, mask = torch.zeros(3, 8, dtype=torch.int64), torch.zeros(3, 8, dtype=torch.bool)
    places = set()
    for seed in range(300):
        some, where = inputs.clone(), mask.clone()
        mask_one_at_least(some, where, torch.tensor([2, 1, 3]), 9, torch.Generator().manual_seed(seed))
        assert where.sum() == 1 and torch.equal(some == 9, where)
        places.add(tuple(where.nonzero()[0].tolist()))
    assert places == {(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)}  # anywhere in the content

    mask[1, 5] = True
    mask_one_at_least(inputs, mask, torch.tensor([2, 1, 3]), 9, torch.Generator())
    assert mask.sum() == 1 and not inputs.any()
