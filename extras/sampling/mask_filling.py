"""Filling the masks of a text, alone or with a judge that chooses among candidates."""

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from extras.sampling.painted_text import Decode
from extras.sampling.step_display import StepDisplay
from extras.sampling.text_continuation import SEPARATOR
from extras.sampling.unmask_sampler import UnmaskSampler


def fill_masks(
    sampler: UnmaskSampler,
    start: Tensor,
    decode: Decode,
    display: StepDisplay,
    *,
    num_samples: int,
    judge: Callable[[Tensor], Tensor] | None = None,
    candidates: int = 1,
) -> Iterator[str]:
    """Yield `num_samples` texts with their masks filled, each with a separator after it.

    With a judge, each text is the one of `candidates` texts with the lowest score, and a line lists all scores.

    start:   (T,) token ids with masks
    display: shows the steps of each text before the text is yielded
    judge:   `judge(ids (B, T)) -> scores (B,)`
    """
    for _ in range(num_samples):
        best, verdict = 0, []
        states: Iterable[Tensor] = sampler.states(start, candidates if judge else 1)
        if judge:
            *_, last = states = list(states)
            scores = judge(last).tolist()
            best = scores.index(min(scores))
            verdict = [f"judge: {scores[best]:.4f}, of " + ", ".join(f"{score:.4f}" for score in sorted(scores))]
        ids = start.tolist()
        display.show(ids)
        for state in states:
            ids = state[best].tolist()
            display.show(ids)
        display.clear()
        yield "\n".join([decode(ids), *verdict, SEPARATOR])
