"""The scale on which a sequence scorer may be trained to see the masked share."""

import torch


def sequence_scorer_target_transform(x: torch.Tensor) -> torch.Tensor:
    """Return x^4 - 2x^3 + 2x: from 0 at 0 to 1 at 1, steepest at 0, so that small shares are told apart best."""
    return x**4 - 2 * x**3 + 2 * x
