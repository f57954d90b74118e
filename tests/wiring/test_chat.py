"""The chat that sample.py makes from its options: with a language model, and with models of other kinds."""

import io
import sys
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import core
from config.options import SampleOptions
from data.tokenizers import CharTokenizer
from extras.sampling.text_continuation import SEPARATOR
from model import GPT
from wiring.chat import make_chat
from wiring.sampling import TrainedModel

CPU = torch.device("cpu")
TOKENIZER = CharTokenizer.from_text("\nabcdefghijklmnop")


def chat(trained: TrainedModel, prompt: str, lines: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> str:
    """Return what a chat prints."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    monkeypatch.setattr(sys, "stdout", io.StringIO())

    def answers(line: str) -> Iterable[str]:
        yield f"[{line}]\n{SEPARATOR}"
        raise AssertionError("one text is enough")

    make_chat(trained, prompt, SampleOptions(device="cpu", **settings), CPU, answers).run()
    return sys.stdout.getvalue()


def test_a_language_model_continues_what_is_typed(tiny_model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = TrainedModel(tiny_model.eval(), TOKENIZER, {}, "language_model")

    first = chat(trained, "\n", "abc\n", monkeypatch, max_new_tokens=5, temperature=0.0)  # the default prompt
    with_start = chat(trained, "ab", "c\n", monkeypatch, max_new_tokens=5, temperature=0.0, start="ab")

    assert first == with_start and len(first) == 6


@pytest.mark.parametrize(
    ("kind", "printed"),
    [("unmasking", "[ab]\n[]\n[c]\n"), ("token_classifier", "[ab]\n\n[c]\n"), ("sequence_scorer", "[ab]\n\n[c]\n")],
)
def test_other_models_answer_each_line(kind: str, printed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = TrainedModel(SimpleNamespace(), TOKENIZER, {}, kind)

    assert chat(trained, "", "ab\n\n/reset\nc\n", monkeypatch) == printed
    with pytest.raises(core.ConfigError, match=f"of the kind {kind}: remove start, and type the text"):
        chat(trained, "ab", "c\n", monkeypatch, start="ab")
