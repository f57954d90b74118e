"""The columns that are read: those that are given, else those with usual names."""

import pytest

from core.errors import ConfigError
from data.rows.columns import Columns, find_columns


@pytest.mark.parametrize(
    ("known", "given", "found"),
    [
        (["id", "text"], Columns(), Columns(text="text")),
        (["content", "text"], Columns(), Columns(text="text")),
        (["input", "output", "quality_score"], Columns(), Columns(prompt="input", response="output")),
        (["text", "prompt", "completion"], Columns(), Columns(prompt="prompt", response="completion")),
        (["messages", "text"], Columns(), Columns(messages="messages")),
        (["output", "input", "instruction"], Columns(), Columns(None, "instruction", "output", None, "input")),
        (["instruction", "output"], Columns(), Columns(prompt="instruction", response="output")),
        (["body"], Columns(), Columns(text="body")),
        (["text", "body"], Columns(text="body"), Columns(text="body")),
        (["a", "b"], Columns(prompt="a", response="b"), Columns(prompt="a", response="b")),
    ],
)
def test_columns_are_found(known: list[str], given: Columns, found: Columns) -> None:
    assert find_columns(known, given) == found


@pytest.mark.parametrize(
    ("known", "given", "message"),
    [
        (["a", "b"], Columns(text="c"), "^there is no column c: the data set has the columns a, b; name one of these"),
        (
            ["a", "b"],
            Columns(),
            "^the data set has the columns a, b, none of which .* set text_column, or prompt_column",
        ),
        (["a", "b"], Columns(prompt="a"), "^prompt_column and response_column are for each other"),
        (["a", "b"], Columns("a", "a", "b"), "^text_column, prompt_column and messages_column: give one of them"),
        ([], Columns(), "^the data set has no columns, none"),
    ],
)
def test_what_cannot_be_read_is_one_message(known: list[str], given: Columns, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_columns(known, given)
