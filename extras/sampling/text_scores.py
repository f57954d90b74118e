"""Scoring texts with a sequence scorer."""

from collections.abc import Callable, Iterator, Sequence

import torch

from extras.sampling.prompt_encoder import PromptEncoder


def score_texts(
    judge: Callable[[torch.Tensor], torch.Tensor],
    encoder: PromptEncoder,
    texts: Sequence[tuple[str, str]],
    device: torch.device,
) -> Iterator[str]:
    """Yield a line for each text: its score and the text.

    judge: `judge(ids (B, T)) -> scores (B,)`; it adds the CLS token
    texts: (name in messages, text)
    """
    encoded = [encoder.encode(text, name, reserved=1) for name, text in texts]  # an error comes before the first line
    for (_, text), ids in zip(texts, encoded, strict=True):
        yield f"{judge(torch.tensor([ids], device=device)).item():.4f}  {text}"
