"""Writes text with an unmasking model, by filling the masks of a prompt."""

from collections.abc import Iterable

import torch

from extras.sampling.continue_text import SEPARATOR
from extras.sampling.painted_text import Decode
from extras.sampling.step_display import StepDisplay
from extras.sampling.unmask_sampler import UnmaskSampler
from loss_modifiers import Judge


def fill_masks(
    sampler: UnmaskSampler,
    ids: torch.Tensor,
    decode: Decode,
    display: StepDisplay,
    *,
    num_samples: int,
    judge: Judge | None = None,
    candidates: int = 1,
) -> None:
    """Print `num_samples` texts.

    ids:        (T,) token ids of the prompt, with masks
    judge:      each text is the one of `candidates` that it finds least machine-made, printed with their scores
    """
    for _ in range(num_samples):
        states: Iterable[torch.Tensor] = sampler.states(ids, candidates if judge else 1)
        best, verdict = 0, []
        if judge:
            *_, last = states = list(states)
            scores = judge(last).tolist()
            best = scores.index(min(scores))
            verdict = [f"judge: {scores[best]:.4f}, of " + ", ".join(f"{score:.4f}" for score in sorted(scores))]
        written = ids.tolist()
        display.show(written)
        for state in states:
            written = state[best].tolist()
            display.show(written)
        display.clear()
        print(decode(written), *verdict, SEPARATOR, sep="\n", flush=True)
