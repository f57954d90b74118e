"""Chats as token ids with labels: what the assistant says is learnt, with the end of its turn."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from data.rows.encoding import BROKEN, CUT_OFF, EMPTY, IGNORED, SEAM, Example

Message = dict[str, Any]  # role and content, both texts
Render = Callable[[Sequence[Message], bool], str]  # (messages, ends with the beginning of an answer) -> text

UNDIVIDED = "whose turns the chat template does not keep in order"
CONTROL = "with a control token in a text that the chat template changes"
REFUSED = "which the chat template refuses"
UNANSWERED = "without an answer of the assistant"
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}  # other data sets' names
MARK = "\ue000{}\ue001"  # stands for a content; characters of private use
SPLIT = re.compile("\ue000(\\d+)\ue001")

Span = tuple[int, int, int]  # (id, first character, last character + 1)


class TemplateError(Exception):
    """The chat template does not take these messages."""


class ChatTokens(Protocol):
    """What the encoder of chats needs of a tokenizer."""

    def spans(self, text: str) -> list[Span]:
        """Return the tokens of a text in which special tokens are ordinary text."""

    def marked_spans(self, text: str) -> list[Span]:
        """Return the tokens of a text in which special tokens are one id."""


class Turn(NamedTuple):
    """The characters of an answer in a chat, with the mark that ends its turn."""

    first: int
    last: int


class Part(NamedTuple):
    """A part of a chat's text. ordinary: its ids, if people wrote it and it is encoded by itself"""

    text: str
    ordinary: list[int] | None = None


class ChatText(NamedTuple):
    """A chat as tokens. labels: IGNORED where nothing is learnt; parts: of the text, one after the other"""

    ids: list[int]
    labels: list[int]
    parts: list[Part]


class ChatEncoder:
    """Encodes a chat for a causal model, by the tokenizer's template.

    A text in which somebody spells a control token, such as <|im_end|>, gives ordinary ids for it.

    render:   the chat template; raises TemplateError for messages that it does not take
    controls: the control tokens
    start:    ids in front of a text, unless the template begins with their token
    column:   of the messages: dicts with `role` and `content`, or with `from` and `value`
    limit:    the most tokens of a chat; what lies beyond is cut
    """

    def __init__(
        self,
        tokens: ChatTokens,
        render: Render,
        column: str,
        limit: int,
        *,
        controls: Sequence[str] = (),
        start: Sequence[int] = (),
    ) -> None:
        self.tokens, self.render, self.column, self.limit = tokens, render, column, limit
        self.controls, self.start = [token for token in controls if token], list(start)

    def __call__(self, row: Mapping[str, Any]) -> Example | str:
        """Return the row's example, or why it has none."""
        messages = read_messages(row.get(self.column))
        if isinstance(messages, str):
            return messages
        found = self.read(messages)
        if isinstance(found, str):
            return found
        ids, labels, _ = found
        if self.start and ids[: len(self.start)] != self.start:
            ids, labels = [*self.start, *ids], [*[IGNORED] * len(self.start), *labels]
        if all(label == IGNORED for label in labels[: self.limit]):
            return CUT_OFF
        return Example(ids[: self.limit], labels[: self.limit], len(ids) > self.limit)

    def read(self, messages: Sequence[Message]) -> ChatText | str:
        """Return the tokens of a chat, without a limit or start ids, or why it cannot be learnt."""
        try:
            turns = self._turns(messages)
        except TemplateError:
            return REFUSED
        if isinstance(turns, str):
            return turns
        parts = self._parts(messages)
        if parts is None:
            return CONTROL
        spans = self._spans(parts)
        if any(first < edge < last for _, first, last in spans for turn in turns for edge in turn):
            return SEAM
        ids = [token for token, _, _ in spans]
        labels = [
            token if any(turn.first <= first and last <= turn.last for turn in turns) else IGNORED
            for token, first, last in spans
        ]
        return ChatText(ids, labels, parts)

    def _turns(self, messages: Sequence[Message]) -> list[Turn] | str:
        """Return where the answers are in the whole text, or why that cannot be told."""
        whole, turns = self.render(messages, False), []
        for number, message in enumerate(messages):
            if message["role"] != "assistant" or not number or not message["content"].strip():
                continue  # nobody has asked, or nothing is answered
            before, upto = self.render(messages[:number], True), self.render(messages[: number + 1], False)
            if not (upto.startswith(before) and whole.startswith(upto)):
                return UNDIVIDED
            turns.append(Turn(len(before), len(upto.rstrip())))  # not the line end after the mark
        return turns or UNANSWERED

    def _parts(self, messages: Sequence[Message]) -> list[Part] | None:
        """Return the parts of the complete text; None if a control token in it cannot be told from the template's."""
        whole = self.render(messages, False)
        if not any(control in message["content"] for message in messages for control in self.controls):
            return [Part(whole)]
        marked = self.render(
            [{**message, "content": MARK.format(number)} for number, message in enumerate(messages)], False
        )
        pieces = SPLIT.split(marked)  # the template's parts, and between them the numbers of the messages
        written = [messages[int(number)]["content"] for number in pieces[1::2]]
        pieces[1::2] = written
        if "".join(pieces) != whole:
            return None
        return [
            Part(text, [token for token, _, _ in self.tokens.spans(text)] if number % 2 else None)
            for number, text in enumerate(pieces)
        ]

    def _spans(self, parts: Sequence[Part]) -> list[Span]:
        """Return the tokens of the complete text."""
        spans: list[Span] = []
        place = 0
        for text, ordinary in parts:
            found = self.tokens.marked_spans(text) if ordinary is None else self.tokens.spans(text)
            spans += [(token, first + place, last + place) for token, first, last in found]
            place += len(text)
        return spans


def read_messages(value: Any) -> list[Message] | str:
    """Return the messages of a chat with `role` and `content`, or why there are none."""
    if not value:
        return EMPTY
    if not isinstance(value, Sequence) or isinstance(value, str):
        return BROKEN
    messages = []
    for message in value:
        if not isinstance(message, Mapping):
            return BROKEN
        role, content = message.get("role") or message.get("from"), message.get("content", message.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            return BROKEN
        messages.append({"role": ROLES.get(role, role), "content": content})
    return messages
