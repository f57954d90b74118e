"""Labels a text's tokens with a token classifier."""

from collections.abc import Sequence

import torch
from torch import nn

from extras.sampling.painted_text import Decode
from extras.sampling.token_labels import TokenLabels


def label_tokens(
    model: nn.Module,
    ids: torch.Tensor,
    decode: Decode,
    *,
    in_colours: bool,
    show_probabilities: bool,
    original: Sequence[int] | None = None,
) -> None:
    """Print a text with its tokens' classes.

    ids:        (T,) token ids
    in_colours: each class on a background of its own; else, or with `show_probabilities`, a table
    original:   the text before tokens were replaced, to measure the accuracy against
    """
    labels = TokenLabels.by(model, ids, decode)
    lines = [labels.painted(), labels.legend()] if in_colours else []
    if show_probabilities or not lines:
        lines.append(labels.table(show_probabilities))
    if original is not None:
        lines.append(labels.accuracy(original))
    print("\n".join(lines))
