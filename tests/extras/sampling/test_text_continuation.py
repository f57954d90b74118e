"""Continuing a prompt: the arguments of the model's generate, and the yielded texts."""

from typing import Any

import torch

from data.tokenizers import CharTokenizer
from extras.sampling.text_continuation import SEPARATOR, continue_text

TOKENIZER = CharTokenizer.from_text("abcd")
SETTINGS: dict[str, Any] = dict(num_samples=2, max_new_tokens=3, temperature=0.5, top_k=7)


class CountingModel:
    """Appends one more `d` at each call, and records the arguments."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def generate(self, ids: torch.Tensor, *settings: Any) -> torch.Tensor:
        self.calls.append((ids.tolist(), *settings))
        return torch.cat([ids, torch.full((1, len(self.calls)), 3)], dim=1)


def test_texts_are_generated_one_by_one() -> None:
    model = CountingModel()
    texts = continue_text(model, TOKENIZER, [0, 1], torch.device("cpu"), **SETTINGS)

    assert next(texts) == f"abd\n{SEPARATOR}" and len(model.calls) == 1
    assert list(texts) == [f"abdd\n{SEPARATOR}"]
    assert model.calls == [([[0, 1]], 3, 0.5, 7)] * 2
