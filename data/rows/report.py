"""What a data set of rows holds, for the reader before the first update."""

from collections.abc import Mapping, Sequence

from data.rows.encoding import IGNORED, Example, Tokens
from data.rows.items import KEPT

SHOWN = 2  # examples
LONGEST = 160  # characters of a text that is shown


def report_rows(
    split: str, counts: Mapping[str, int], cut: int, duplicates: int, tokens: int, items: int | None = None
) -> str:
    """Return a line on the rows of a split: how many are kept, and how many are dropped and why.

    cut:   kept rows of which the length limit has cut something off
    items: the packs of the kept rows; None without packing
    """
    kept, total = counts.get(KEPT, 0), sum(counts.values())
    parts = [f"{kept:,} of {total:,} rows, {tokens:,} tokens" + (f" in {items:,} packs" if items is not None else "")]
    parts += [f"{count:,} dropped {reason}" for reason, count in sorted(counts.items()) if reason != KEPT]
    parts += [f"{cut:,} cut at the length limit"] if cut else []
    parts += [f"{duplicates:,} the same as an earlier row"] if duplicates else []
    return f"data: {split}: {', '.join(parts)}"


def show_examples(examples: Sequence[Example], tokens: Tokens) -> list[str]:
    """Return a line for each of the first examples: the text that is learnt, and what the model is given before it."""
    lines = []
    for number, example in enumerate(examples[:SHOWN], 1):
        labelled = [label for label in example.labels if label != IGNORED]
        given = [token for token, label in zip(example.input_ids, example.labels, strict=False) if label == IGNORED]
        whole = len(example.input_ids) != len(example.labels)  # of a model with an encoder
        before = tokens.decode(example.input_ids if whole else given)
        lines.append(
            f"data: example {number}: {_shown(before)} -> {_shown(tokens.decode(labelled))}"
            if before
            else f"data: example {number}: {_shown(tokens.decode(labelled))}"
        )
    return lines


def _shown(text: str) -> str:
    return repr(text) if len(text) <= LONGEST else f"{text[:LONGEST]!r}..."
