"""Rows as token ids with labels: plain texts, and prompts with the response that is learnt."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

IGNORED = -100  # the label of a token that is not learnt, as in transformers

EMPTY, BROKEN, POOR, CUT_OFF, SEAM = (
    "without text",
    "with another type than text",
    "below min_quality_score",
    "whose response lies beyond the length limit",
    "whose prompt and response share a token",
)


class ImageText(NamedTuple):
    """What a processor makes the inputs of a row with images from.

    text:     of the row; where people wrote a control token, a stand-in is in place of each token that they wrote
    images:   returns the images, in the order of their marks in the text
    stand_in: id of a token that the text has nowhere else
    written:  the tokens that stand-ins are in place of, in their order
    added:    tokens that the processor adds to the row, such as further image tokens
    digest:   of the images' content
    place:    of the row, in messages
    """

    text: str
    images: Callable[[], list[Any]]
    stand_in: int | None
    written: list[int]
    added: int
    digest: int
    place: str


class Example(NamedTuple):
    """A row as the model sees it.

    input_ids: token ids; of a row with images, each image is one token
    labels:    the ids that are learnt, IGNORED elsewhere: as many as input_ids, each at the place of its own token;
               of a model with an encoder the ids of the response
    is_cut:    the length limit has cut something off
    image_text: of a row with images
    """

    input_ids: list[int]
    labels: list[int]
    is_cut: bool = False
    image_text: ImageText | None = None

    @property
    def length(self) -> int:
        """The tokens that the model reads."""
        return len(self.input_ids) + (self.image_text.added if self.image_text else 0)

    def content(self) -> int:
        """Return a number that differs for other ids, labels or images."""
        images = (self.image_text.digest,) if self.image_text else ()
        return hash((tuple(self.input_ids), tuple(self.labels), *images))


class Tokens(Protocol):
    """What an encoder needs of a tokenizer."""

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text, in which special tokens are ordinary text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Return (id, first, last + 1) of the tokens of a text, with the characters that each stands for."""


class Marks(NamedTuple):
    """The ids that a tokenizer puts in front of a text, and those that end one."""

    start: list[int]
    end: list[int]


class TextEncoder:
    """Encodes a text for a causal model: every token is learnt, the end token too.

    limit: the most tokens of a row; a longer text is cut, without an end token
    """

    def __init__(self, tokens: Tokens, marks: Marks, column: str, limit: int) -> None:
        self.tokens, self.marks, self.column, self.limit = tokens, marks, column, limit

    def __call__(self, row: Mapping[str, Any]) -> Example | str:
        """Return the row's example, or why it has none."""
        text = as_text(row.get(self.column))
        if problem := _problem(text):
            return problem
        assert isinstance(text, str)
        ids = [*self.marks.start, *self.tokens.encode_ordinary(text), *self.marks.end]
        return Example(ids[: self.limit], ids[: self.limit], len(ids) > self.limit)


class PairEncoder:
    """Encodes a prompt and its response for a causal model: the response is learnt, and its end token.

    The two are encoded apart, as the prompt is when the model answers. If that is another text than both together, as
    with tokenizers that put a space in front of each text, they are encoded together and divided between two tokens.

    limit:        the most tokens of a row: a longer response is cut, without its end token
    prompt_limit: the most tokens of the prompt, whose first ones are kept; None: as many as the limit
    """

    def __init__(
        self, tokens: Tokens, marks: Marks, prompt: str, response: str, limit: int, prompt_limit: int | None = None
    ) -> None:
        self.tokens, self.marks, self.limit = tokens, marks, limit
        self.prompt, self.response, self.prompt_limit = prompt, response, prompt_limit or limit

    def __call__(self, row: Mapping[str, Any]) -> Example | str:
        """Return the row's example, or why it has none."""
        prompt, response = as_text(row.get(self.prompt)), as_text(row.get(self.response))
        prompt = "" if prompt is None else prompt
        if problem := _problem(response) or (_problem(prompt) if prompt != "" else ""):
            return problem
        assert isinstance(prompt, str) and isinstance(response, str)
        parts = self._apart(prompt, response)
        if parts is None:
            return SEAM
        before, answer = parts
        start = [*self.marks.start, *before]
        known = start[: self.prompt_limit]
        ids = [*known, *answer, *self.marks.end]
        labels = [*[IGNORED] * len(known), *answer, *self.marks.end]
        if len(known) >= self.limit:
            return CUT_OFF
        return Example(ids[: self.limit], labels[: self.limit], len(ids) > self.limit or len(known) < len(start))

    def _apart(self, prompt: str, response: str) -> tuple[list[int], list[int]] | None:
        """Return the ids of prompt and response; None if no tokens stand for the response alone."""
        before, answer = self.tokens.encode_ordinary(prompt), self.tokens.encode_ordinary(response)
        if self.tokens.decode([*before, *answer]) == prompt + response:
            return before, answer
        spans, seam = self.tokens.spans(prompt + response), len(prompt)
        if any(first < seam < last for _, first, last in spans):
            return None
        return [token for token, first, _ in spans if first < seam], [
            token for token, first, _ in spans if first >= seam
        ]


class SourceTargetEncoder:
    """Encodes a prompt for the encoder, and its response with an end token as what the decoder learns.

    limit, target_limit: the most tokens of the two; longer ones are cut
    """

    def __init__(self, tokens: Tokens, marks: Marks, prompt: str, response: str, limit: int, target_limit: int) -> None:
        self.tokens, self.marks = tokens, marks
        self.prompt, self.response, self.limit, self.target_limit = prompt, response, limit, target_limit

    def __call__(self, row: Mapping[str, Any]) -> Example | str:
        """Return the row's example, or why it has none."""
        prompt, response = as_text(row.get(self.prompt)), as_text(row.get(self.response))
        if problem := _problem(prompt) or _problem(response):
            return problem
        assert isinstance(prompt, str) and isinstance(response, str)
        end = self.marks.end
        source = [*self.marks.start, *self.tokens.encode_ordinary(prompt)]
        target = [*self.tokens.encode_ordinary(response), *end]
        is_cut = len(source) + len(end) > self.limit or len(target) > self.target_limit
        return Example([*source[: self.limit - len(end)], *end], target[: self.target_limit], is_cut)


class IdsEncoder:
    """Takes a row that has ids already, and labels, which are the ids themselves if it has none."""

    def __init__(self, limit: int, shifts: bool) -> None:
        self.limit, self.shifts = limit, shifts

    def __call__(self, row: Mapping[str, Any]) -> Example | str:
        """Return the row's example, or why it has none."""
        ids, labels = row.get("input_ids"), row.get("labels")
        labels = ids if labels is None else labels
        try:
            ids, labels = [int(number) for number in ids], [int(number) for number in labels]  # type: ignore[union-attr]
        except (TypeError, ValueError):
            return BROKEN
        if not ids or (self.shifts and len(ids) != len(labels)):
            return BROKEN if ids else EMPTY
        if all(label == IGNORED for label in labels[: self.limit]):
            return CUT_OFF
        return Example(ids[: self.limit], labels[: self.limit], max(len(ids), len(labels)) > self.limit)


def learnt(example: Example, shifts: bool) -> int:
    """Return how many tokens of an example are learnt. shifts: nothing predicts the first one, as in a causal model"""
    labels = example.labels[1:] if shifts else example.labels
    return sum(label != IGNORED for label in labels)


def as_text(value: Any) -> Any:
    """Return a number as the text that it is in a column of texts, such as an answer; anything else as it is."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) and value == value else value


def _problem(text: Any) -> str:
    """Return why a value is no text that can be encoded; "" if it is one."""
    if text is None or text == "":
        return EMPTY
    if not isinstance(text, str):
        return BROKEN
    return "" if text.strip() else EMPTY
