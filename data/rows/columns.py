"""Which columns of a data set hold what is learnt."""

from collections.abc import Sequence
from typing import NamedTuple

from core.errors import ConfigError

# names that are found without an option, in this order
MESSAGES = ("messages", "conversations", "conversation")
PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("input", "output"),
    ("question", "answer"),
    ("instruction", "response"),
    ("instruction", "output"),
    ("source", "target"),
)
TEXTS = ("text", "content")
ALPACA = ("instruction", "input", "output")


class Columns(NamedTuple):
    """The columns that are read: a text, or a prompt and its response, or messages of a chat."""

    text: str | None = None
    prompt: str | None = None
    response: str | None = None
    messages: str | None = None
    context: str | None = None  # follows the prompt on lines of its own, as in Alpaca's data sets

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        return [name for name in self if name is not None]


def find_columns(known: Sequence[str], given: Columns) -> Columns:
    """Return the columns that the options give, or those with usual names.

    Raises ConfigError for a column that the data set lacks, and if none is found; it lists those there are.
    """
    there = f"the data set has the columns {', '.join(known)}" if known else "the data set has no columns"
    if missing := [name for name in given.names if name not in known]:
        raise ConfigError(f"there is no column {missing[0]}: {there}; name one of these")
    if bool(given.prompt) != bool(given.response):
        raise ConfigError("prompt_column and response_column are for each other: give both, or none of them")
    if sum(bool(name) for name in (given.text, given.prompt, given.messages)) > 1:
        raise ConfigError("text_column, prompt_column and messages_column: give one of them; the others are not read")
    if given.names:
        return given
    for name in MESSAGES:
        if name in known:
            return Columns(messages=name)
    if set(ALPACA) <= set(known):
        return Columns(prompt=ALPACA[0], response=ALPACA[2], context=ALPACA[1])
    for prompt, response in PAIRS:
        if prompt in known and response in known:
            return Columns(prompt=prompt, response=response)
    for name in TEXTS:
        if name in known:
            return Columns(text=name)
    if len(known) == 1:
        return Columns(text=known[0])
    raise ConfigError(
        f"{there}, none of which is known to hold a text: set text_column, or prompt_column and response_column, or "
        "messages_column"
    )
