"""The chat of `sample.py --interactive=True`, made from the SampleOptions object."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator

import torch

import core
from config.options import SampleOptions
from extras.sampling.chat import Chat
from extras.sampling.conversation import Conversation
from extras.sampling.line_input import LineInput, history_path
from extras.sampling.text_continuation import SEPARATOR
from wiring.sampling import TrainedModel


def make_chat(
    trained: TrainedModel,
    prompt: str,
    options: SampleOptions,
    device: torch.device,
    answers: Callable[[str], Iterable[str]],
) -> Chat:
    """Return a chat with a language model, or one in which other models answer each line by itself.

    prompt:  of `start`, which a language model sees before the first line
    answers: `answers(line) -> texts` of sample.py, for models of other kinds; the first is printed
    """
    lines = LineInput(history_path(os.environ))
    if trained.kind == "language_model":
        conversation = Conversation(
            trained.model,
            trained.encoder(),
            device,
            start=prompt if options.changed("start") else "",
            **options.pick("max_new_tokens", "temperature", "top_k"),
        )
        return Chat(conversation.reply, conversation.reset, lines, sys.stdout)

    if options.changed("start"):
        raise core.ConfigError(
            f"start is the beginning of a chat with a language model, and this model is of the kind {trained.kind}: "
            "remove start, and type the text"
        )

    def answer(line: str) -> Iterator[str]:
        if line or trained.kind == "unmasking":  # the others have nothing to say to an empty text
            yield next(iter(answers(line))).removesuffix(f"\n{SEPARATOR}")

    return Chat(answer, lambda: None, lines, sys.stdout)
