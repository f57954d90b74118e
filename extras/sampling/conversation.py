"""A text that a user and a language model write in turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from core.errors import DataError
from core.model_initializer import require_method
from extras.sampling.text_pieces import text_pieces
from extras.sampling.token_stream import stream_tokens

if TYPE_CHECKING:
    import torch

    from extras.sampling.prompt_encoder import PromptEncoder


class Conversation:
    """Replies to lines with a language model, for which all lines and replies are one text.

    A reply continues the line, with nothing added to it. Between a reply and the next line is a line break; none if
    the reply ends with one or the vocabulary has none. An empty line lets the model go on with its reply.

    start: the text before the first line, which continues it; it is kept on a reset

    Raises ConfigError if the model has no method `generate`; of `start` the errors of `PromptEncoder.to_continue`.
    """

    def __init__(
        self,
        model: Any,
        encoder: PromptEncoder,
        device: torch.device,
        *,
        start: str = "",
        max_new_tokens: int,
        temperature: float,
        top_k: int | None,
    ) -> None:
        require_method(model, "generate", "sampling")
        self.model = model
        self.encoder = encoder
        self.device = device
        self.start = encoder.to_continue(start) if start else []
        self.settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k}
        self.reset()

    def reset(self) -> None:
        """Forget all lines and replies."""
        self.ids = list(self.start)  # of the text so far
        self.needs_line_break = False  # before the next line

    def reply(self, line: str) -> Iterator[str]:
        """Yield the reply to a line in pieces. A reply that is not read to its end is kept as far as it was sampled.

        Raises ConfigError or DataError if the line cannot be encoded; the text so far stays as it is.
        """
        self.ids += self._encode(line)
        self.needs_line_break = True
        for piece in text_pieces(self._sample(), self.encoder.tokenizer.decode):
            self.needs_line_break = not piece.endswith("\n")
            yield piece

    def _sample(self) -> Iterator[int]:
        """Yield the tokens of a reply, and add them to the text."""
        for token in stream_tokens(self.model, self.ids, self.device, **self.settings):
            self.ids.append(token)
            yield token

    def _encode(self, line: str) -> list[int]:
        """Return the token ids with which a line is added to the text so far."""
        if not line:
            return [] if self.ids else self.encoder.to_continue("\n", is_default=True)
        if self.needs_line_break:
            with suppress(DataError):  # the vocabulary may lack the line break
                return self.encoder.to_continue(f"\n{line}")
        return self.encoder.to_continue(line)
