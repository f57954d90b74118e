"""Which positions of a row are to be predicted, and what the model sees in their place.

Pure functions over token ids (B, T) int64 on the CPU. Every draw comes from the generator handed in, in an order that
the tests fix, so that a seed keeps its masks. A mask is (B, T) bool, True where the model has to predict. `lengths`
(B,) int64 is the content of each row where rows end in padding: nothing beyond it is chosen, and shares refer to it.
"""

import numpy as np
import torch

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # of the chosen positions; the rest keep their token (BERT, section 3.1)
MOST_ROUNDS, ROUNDS_PER_POSITION = 1000, 10  # where sticky masking gives up short of its target
LOTS = 2**40  # so many that two positions of a row hardly ever draw the same, few enough for rows of 2**22 tokens


def corrupt(
    tokens: torch.Tensor, mask: torch.Tensor, mask_token_id: int, vocab_size: int, generator: torch.Generator
) -> torch.Tensor:
    """Return what the model sees: of the masked positions 80 % the mask token, 10 % a random one, 10 % their own.

    vocab_size: random tokens come from [0, vocab_size), so it is the size without special tokens
    """
    draws = torch.rand(tokens.shape, generator=generator)
    others = torch.randint(vocab_size, tokens.shape, generator=generator)
    masked = tokens.masked_fill(mask & (draws < MASK_SHARE), mask_token_id)
    return torch.where(mask & (draws >= MASK_SHARE) & (draws < MASK_SHARE + RANDOM_SHARE), others, masked)


def mask_one_at_least(
    inputs: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor, mask_token_id: int, generator: torch.Generator
) -> None:
    """Where nothing at all is masked, mask one token, in place: a mean over nothing is no number.

    inputs (B, T) int64, mask (B, T) bool; lengths (B,): content of each row
    """
    if not mask.any():
        row = int(torch.randint(len(mask), (), generator=generator))
        place = int(torch.randint(int(lengths[row]), (), generator=generator))
        mask[row, place] = True
        inputs[row, place] = mask_token_id


def uniform_mask(
    tokens: torch.Tensor, probability: float, generator: torch.Generator, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """Choose each position with the same probability, on its own."""
    return (torch.rand(tokens.shape, generator=generator) < probability) & _content(tokens, lengths)


def random_mask(
    tokens: torch.Tensor, max_masked_ratio: float, generator: torch.Generator, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """Draw a ratio below `max_masked_ratio` for each row, then choose each of its positions with that probability."""
    ratios = max_masked_ratio * torch.rand(len(tokens), 1, generator=generator, dtype=torch.float64)
    return (torch.rand(tokens.shape, generator=generator) < ratios) & _content(tokens, lengths)


def sticky_mask(
    tokens: torch.Tensor,
    target_masked_ratio: float,
    p1: float,
    p2: float,
    generator: torch.Generator,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Let masks grow round by round until each row has exactly `target_masked_ratio` of its content, rounded up.

    p1: probability, in one round, of a position without a masked neighbour
    p2: probability of one beside a masked position; 0 leaves single tokens, a large one makes clusters

    A row keeps fewer when 10 rounds per wanted position, 1000 at most, do not suffice or no position may follow.
    """
    sizes = _sizes(tokens, lengths)
    wanted = (target_masked_ratio * sizes.double()).ceil().long()
    return _grow(_content(tokens, lengths), wanted, p1, p2, generator)


def span_mask(
    tokens: torch.Tensor, spans_count: int, generator: torch.Generator, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """Choose `spans_count` stretches per row, between neighbours among twice as many sorted random positions.

    Both ends belong to a span. Spans may touch, never overlap by more than an end, and cover about half of the row
    whatever their number. A row of fewer than two tokens has none.
    """
    sizes = _sizes(tokens, lengths)
    draws = torch.rand(len(tokens), 2 * spans_count, generator=generator, dtype=torch.float64)
    ends = (draws * sizes[:, None]).long().sort(dim=1).values
    # +1 where a span begins, -1 after it ends: the running sum is the number of spans that cover a position
    steps = torch.zeros(len(tokens), tokens.shape[1] + 1, dtype=torch.int64)
    ones = torch.ones_like(ends[:, ::2])
    steps.scatter_add_(1, ends[:, ::2], ones).scatter_add_(1, ends[:, 1::2] + 1, -ones)
    return (steps.cumsum(dim=1)[:, :-1] > 0) & (sizes > 1)[:, None]


def line_mask(
    tokens: torch.Tensor,
    newline_id: int,
    min_ratio: float,
    max_ratio: float,
    generator: torch.Generator,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draw a share between the two ratios for each row, and choose that share of its lines, at least one.

    A line includes the newline that ends it; what follows the last newline is a line, too.
    """
    content = _content(tokens, lengths)
    first = torch.ones_like(content)
    first[:, 1:] = tokens[:, :-1] == newline_id
    line = first.cumsum(dim=1) - 1  # (B, T) the number of the line that a position is in
    counts = (first & content).sum(dim=1)
    shares = torch.rand(len(tokens), generator=generator, dtype=torch.float64) * (max_ratio - min_ratio) + min_ratio
    wanted = (shares * counts).round().long().clamp(min=1)
    chosen = _choose(torch.arange(tokens.shape[1]) < counts[:, None], wanted, generator)
    return chosen.gather(1, line) & content


def corruption_rate(
    iter_num: int, guaranteed_unmasked_min: float, guaranteed_unmasked_max: float, random_mask_warmup: int
) -> float:
    """Return the share of tokens to replace: it rises from 1 - max to 1 - min over the warm-up, then stays."""
    low, high = 1 - guaranteed_unmasked_max, 1 - guaranteed_unmasked_min
    return low + iter_num / random_mask_warmup * (high - low) if iter_num < random_mask_warmup else high


def replace_random(
    tokens: torch.Tensor,
    rate: float,
    p1_p2_ratio: float,
    vocab_size: int,
    generator: torch.Generator,
    lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace tokens by random ones from [0, vocab_size); return the result and where it was done, both (B, T).

    p1_p2_ratio: 1 replaces each token with probability `rate`, and now and then by itself, which counts all the same;
                 any other lets replacements grow like sticky masks to exactly `rate` of the row, rounded down, where
                 the larger of p1 and p2 is rate / 4 and p1 / p2 this ratio, and each differs from its original
    """
    if p1_p2_ratio == 1:
        changed = uniform_mask(tokens, rate, generator, lengths)
        others = torch.randint(vocab_size, tokens.shape, generator=generator)
        return torch.where(changed, others, tokens), changed
    # a draw that repeats the original changes nothing and leaves the position for a later round: the same as a draw
    # among the other tokens that comes about less often
    top = rate / 4 * (1 - 1 / vocab_size)
    p1, p2 = (top, top / p1_p2_ratio) if p1_p2_ratio > 1 else (top * p1_p2_ratio, top)
    wanted = (rate * _sizes(tokens, lengths).double()).floor().long()
    changed = _grow(_content(tokens, lengths), wanted, p1, p2, generator)
    others = torch.randint(max(vocab_size - 1, 1), tokens.shape, generator=generator)
    return torch.where(changed, others + (others >= tokens), tokens), changed


def _grow(
    content: torch.Tensor, wanted: torch.Tensor, p1: float, p2: float, generator: torch.Generator
) -> torch.Tensor:
    """Choose `wanted` (B,) positions of each row's content: round after round, then random ones of a surplus go."""
    mask = torch.zeros_like(content)
    rounds = (ROUNDS_PER_POSITION * wanted).clamp(max=MOST_ROUNDS)
    for number in range(max(rounds.tolist(), default=0)):
        unfinished = (mask.sum(dim=1) < wanted) & (number < rounds)
        beside = torch.zeros_like(mask)
        beside[:, 1:] = mask[:, :-1]
        beside[:, :-1] |= mask[:, 1:]
        room = content & ~mask & unfinished[:, None]
        near, far = room & beside, room & ~beside
        if not ((p1 > 0 and far.any()) or (p2 > 0 and near.any())):  # finished, or stuck: with p2 = 0 all room is near
            break
        draws = torch.rand(mask.shape, generator=generator)
        mask |= (far & (draws < p1)) | (near & (draws < p2))
    return _choose(mask, wanted, generator) if (mask.sum(dim=1) > wanted).any() else mask


def _choose(among: torch.Tensor, counts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Choose `counts` (B,) of the True positions of each row at random, or all of them where there are no more."""
    width = among.shape[1]
    lots = torch.randint(LOTS, among.shape, generator=generator) * width + torch.arange(width)  # no two are equal
    lots.masked_fill_(~among, torch.iinfo(torch.int64).max)
    ranked = torch.from_numpy(np.sort(lots.numpy(), axis=1))  # several times quicker than torch's sort
    highest = ranked.gather(1, counts.clamp(1, width)[:, None] - 1)
    return among & (lots <= highest) & (counts > 0)[:, None]


def _sizes(tokens: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    return torch.full((len(tokens),), tokens.shape[1]) if lengths is None else lengths


def _content(tokens: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    return torch.arange(tokens.shape[1]) < _sizes(tokens, lengths)[:, None]
