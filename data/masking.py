"""Functions that choose the positions to predict, and replace the tokens there.

They work on token ids (B, T) int64 on the CPU. Every draw comes from the given generator, in an order that the tests
fix, so that a seed always gives the same masks. A mask is (B, T) bool, True where the model predicts. `lengths` (B,)
int64 is the number of tokens of each row before its padding: padding is never chosen, and ratios refer to the tokens
before it.
"""

import numpy as np
import torch

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # of the chosen positions; the rest keep their token (BERT, section 3.1)
MAX_ROUNDS, ROUNDS_PER_POSITION = 1000, 10  # sticky masking stops after so many rounds, even below its target
LOTS = 2**40  # so large that two positions rarely draw the same number, small enough for rows of 2**22 tokens


def corrupt(
    tokens: torch.Tensor, mask: torch.Tensor, mask_token_id: int, vocab_size: int, generator: torch.Generator
) -> torch.Tensor:
    """Return the inputs (B, T): 80 % of masked positions get the mask token, 10 % a random token, 10 % keep theirs.

    vocab_size: random tokens are drawn from [0, vocab_size); special tokens are not part of it
    """
    draws = torch.rand(tokens.shape, generator=generator)
    others = torch.randint(vocab_size, tokens.shape, generator=generator)
    masked = tokens.masked_fill(mask & (draws < MASK_SHARE), mask_token_id)
    return torch.where(mask & (draws >= MASK_SHARE) & (draws < MASK_SHARE + RANDOM_SHARE), others, masked)


def mask_one_at_least(
    inputs: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor, mask_token_id: int, generator: torch.Generator
) -> None:
    """If no position of the batch is masked, mask a random one in place: the mean loss needs at least one.

    inputs: (B, T) int64; mask: (B, T) bool
    """
    if not mask.any():
        row = int(torch.randint(len(mask), (), generator=generator))
        position = int(torch.randint(int(lengths[row]), (), generator=generator))
        mask[row, position] = True
        inputs[row, position] = mask_token_id


def uniform_mask(
    tokens: torch.Tensor, probability: float, generator: torch.Generator, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """Return a mask that chooses each position independently with the same probability."""
    return (torch.rand(tokens.shape, generator=generator) < probability) & content_mask(tokens, lengths)


def random_mask(
    tokens: torch.Tensor, max_masked_ratio: float, generator: torch.Generator, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """Return a mask that chooses each position with a probability drawn per row, below `max_masked_ratio`."""
    ratios = max_masked_ratio * torch.rand(len(tokens), 1, generator=generator, dtype=torch.float64)
    return (torch.rand(tokens.shape, generator=generator) < ratios) & content_mask(tokens, lengths)


def sticky_mask(
    tokens: torch.Tensor,
    target_masked_ratio: float,
    p1: float,
    p2: float,
    generator: torch.Generator,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return a mask that grows round by round until it has exactly `target_masked_ratio` of each row, rounded up.

    p1: probability per round of a position without a masked neighbour
    p2: probability per round of a position next to a masked one; 0 gives single tokens, large values give clusters

    A row has fewer masked positions if 10 rounds per wanted position (1000 rounds at most) do not suffice, or if p1 or
    p2 is 0 and no further position can be chosen.
    """
    sizes = _sizes(tokens, lengths)
    wanted = (target_masked_ratio * sizes.double()).ceil().long()
    return _grow(content_mask(tokens, lengths), wanted, p1, p2, generator)


def span_mask(
    tokens: torch.Tensor, spans_count: int, generator: torch.Generator, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """Return a mask of `spans_count` spans per row, whose ends are 2 * spans_count sorted random positions, in pairs.

    A span includes both of its ends. Two spans overlap by one position at most. For any number of spans they cover
    about half of the row. A row of fewer than two tokens has no span.
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
    """Return a mask of random lines: a ratio between the two limits is drawn per row; at least one line is chosen.

    A line includes the newline that ends it. The tokens after the last newline are a line, too.
    """
    content = content_mask(tokens, lengths)
    first = torch.ones_like(content)
    first[:, 1:] = tokens[:, :-1] == newline_id
    line = first.cumsum(dim=1) - 1  # (B, T) the line number of each position
    counts = (first & content).sum(dim=1)
    ratios = torch.rand(len(tokens), generator=generator, dtype=torch.float64) * (max_ratio - min_ratio) + min_ratio
    wanted = (ratios * counts).round().long().clamp(min=1)
    chosen = _choose(torch.arange(tokens.shape[1]) < counts[:, None], wanted, generator)
    return chosen.gather(1, line) & content


def corruption_rate(
    iter_num: int, guaranteed_unmasked_min: float, guaranteed_unmasked_max: float, random_mask_warmup: int
) -> float:
    """Return the fraction of tokens to replace: it rises linearly from 1 - max to 1 - min over the warm-up."""
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
    """Replace tokens by random ones from [0, vocab_size); return the new tokens and the replaced positions (B, T).

    p1_p2_ratio: 1: each token is replaced with probability `rate`; the new token may equal the old one, and still
                 counts as a replacement.
                 Others: replacements grow like sticky masks to exactly `rate` of the row, rounded down; the larger of
                 p1 and p2 is rate / 4, p1 / p2 is this ratio, and the new token differs from the old one
    """
    if p1_p2_ratio == 1:
        changed = uniform_mask(tokens, rate, generator, lengths)
        others = torch.randint(vocab_size, tokens.shape, generator=generator)
        return torch.where(changed, others, tokens), changed
    # a draw of the original token leaves the position for a later round: the same as a lower probability of a draw
    # among the other tokens
    top = rate / 4 * (1 - 1 / vocab_size)
    p1, p2 = (top, top / p1_p2_ratio) if p1_p2_ratio > 1 else (top * p1_p2_ratio, top)
    wanted = (rate * _sizes(tokens, lengths).double()).floor().long()
    changed = _grow(content_mask(tokens, lengths), wanted, p1, p2, generator)
    others = torch.randint(max(vocab_size - 1, 1), tokens.shape, generator=generator)
    return torch.where(changed, others + (others >= tokens), tokens), changed


def _grow(
    content: torch.Tensor, wanted: torch.Tensor, p1: float, p2: float, generator: torch.Generator
) -> torch.Tensor:
    """Return a mask with `wanted` (B,) positions of `content` (B, T): it grows by rounds, then surplus is removed."""
    mask = torch.zeros_like(content)
    rounds = (ROUNDS_PER_POSITION * wanted).clamp(max=MAX_ROUNDS)
    for number in range(max(rounds.tolist(), default=0)):
        unfinished = (mask.sum(dim=1) < wanted) & (number < rounds)
        free = content & ~mask & unfinished[:, None]
        adjacent = next_to_masked(mask)
        near, far = free & adjacent, free & ~adjacent
        if not ((p1 > 0 and far.any()) or (p2 > 0 and near.any())):  # finished, or no free position can be chosen
            break
        draws = torch.rand(mask.shape, generator=generator)
        mask |= (far & (draws < p1)) | (near & (draws < p2))
    return _choose(mask, wanted, generator) if (mask.sum(dim=1) > wanted).any() else mask


def _choose(among: torch.Tensor, counts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a mask of `counts` (B,) random True positions of each row, or of all if a row has fewer."""
    width = among.shape[1]
    lots = torch.randint(LOTS, among.shape, generator=generator) * width + torch.arange(width)  # unique in a row
    lots.masked_fill_(~among, torch.iinfo(torch.int64).max)
    ranked = torch.from_numpy(np.sort(lots.numpy(), axis=1))  # several times faster than torch's sort
    highest = ranked.gather(1, counts.clamp(1, width)[:, None] - 1)
    return among & (lots <= highest) & (counts > 0)[:, None]


def next_to_masked(mask: torch.Tensor) -> torch.Tensor:
    """Return the positions (B, T) with a masked neighbour, on the left or on the right."""
    adjacent = torch.zeros_like(mask)
    adjacent[:, 1:] = mask[:, :-1]
    adjacent[:, :-1] |= mask[:, 1:]
    return adjacent


def content_mask(tokens: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Return the positions (B, T) before the padding; without lengths, all of them."""
    return torch.arange(tokens.shape[1]) < _sizes(tokens, lengths)[:, None]


def _sizes(tokens: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    return torch.full((len(tokens),), tokens.shape[1]) if lengths is None else lengths
