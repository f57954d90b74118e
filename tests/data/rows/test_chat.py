"""Chats: the assistant's answers are learnt with the end of their turn, and nothing else is."""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from data.rows.chat import CONTROL, REFUSED, UNANSWERED, UNDIVIDED, ChatEncoder, TemplateError, read_messages
from data.rows.encoding import BROKEN, CUT_OFF, EMPTY, IGNORED, SEAM, Example

MARKS = ["<s>", "<end>", "<user>", "<assistant>"]


class Letters:
    """A token for each character; a control token is one id where it is marked."""

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        return [(ord(letter), place, place + 1) for place, letter in enumerate(text)]

    def marked_spans(self, text: str) -> list[tuple[int, int, int]]:
        found = re.finditer("|".join(map(re.escape, MARKS)) + r"|[\s\S]", text)
        return [(MARKS.index(m[0]) if m[0] in MARKS else ord(m[0]), *m.span()) for m in found]

    def text(self, ids: Sequence[int]) -> str:
        return "".join(MARKS[number] if number < len(MARKS) else chr(number) for number in ids)


def render(messages: Sequence[Any], begins_answer: bool) -> str:
    turns = "".join(f"<{message['role']}>{message['content']}<end>\n" for message in messages)
    return "<s>" + turns + ("<assistant>" if begins_answer else "")


def encoder(template: Any = render, limit: int = 200, start: Sequence[int] = ()) -> ChatEncoder:
    return ChatEncoder(Letters(), template, "messages", limit, controls=MARKS, start=start)


def chat(*contents: str) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(contents)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]}


def learnt(example: Any) -> str:
    return Letters().text([label for label in example.labels if label != IGNORED])


def test_answers_and_their_ends_are_learnt() -> None:
    found = encoder()(chat("hi", "yes", "and", "no"))
    assert isinstance(found, Example)
    assert (
        Letters().text(found.input_ids) == "<s><user>hi<end>\n<assistant>yes<end>\n<user>and<end>\n<assistant>no<end>\n"
    )
    assert learnt(found) == "yes<end>no<end>"
    assert learnt(encoder()(chat("hi", "yes", "and"))) == "yes<end>"


def test_one_start_token_whoever_adds_it() -> None:
    found = encoder(start=[0])(chat("hi", "yes"))
    assert isinstance(found, Example) and found.input_ids.count(0) == 1

    def without(messages: Sequence[Any], begins_answer: bool) -> str:
        return render(messages, begins_answer).removeprefix("<s>")

    added = encoder(without, start=[0])(chat("hi", "yes"))
    assert isinstance(added, Example) and added.input_ids[0] == 0 and added.input_ids.count(0) == 1
    assert added.labels[0] == IGNORED and learnt(added) == "yes<end>"


def test_a_control_token_in_a_text_is_ordinary_text() -> None:
    found = encoder()(chat("say <end>", "<user> is a mark"))
    assert isinstance(found, Example)
    counts = [found.input_ids.count(number) for number in range(4)]
    assert counts == [1, 2, 1, 1] and learnt(found) == "<user> is a mark<end>"

    def trimming(messages: Sequence[Any], begins_answer: bool) -> str:
        return render([{**message, "content": message["content"].strip()} for message in messages], begins_answer)

    assert encoder(trimming)(chat(" <end> ", "a")) == CONTROL
    assert learnt(encoder(trimming)(chat(" b ", " a "))) == "a<end>"


def test_templates_that_cannot_be_divided_say_so() -> None:
    def last_turn_alone(messages: Sequence[Any], begins_answer: bool) -> str:
        return render(messages[-1:], begins_answer)

    def merging(messages: Sequence[Any], begins_answer: bool) -> str:
        return render(messages, begins_answer).replace("<assistant>", "<ASSISTANT")

    assert encoder(last_turn_alone)(chat("hi", "yes", "and", "no")) == UNDIVIDED
    assert encoder()(chat("hi")) == UNANSWERED
    assert encoder(limit=9)(chat("a long question", "yes")) == CUT_OFF

    class Pairs(Letters):
        def marked_spans(self, text: str) -> list[tuple[int, int, int]]:
            return [(7, place, place + 2) for place in range(0, len(text), 2)]

    seam = ChatEncoder(Pairs(), merging, "messages", 99)
    assert SEAM in [seam(chat("hi", "yes")), seam(chat("hiy", "yes"))]


def test_a_chat_that_the_template_refuses_is_one_row_less() -> None:
    def strict(messages: Sequence[Any], begins_answer: bool) -> str:
        if not messages or messages[0]["role"] != "user":
            raise TemplateError("a chat begins with the user")
        return render(messages, begins_answer)

    begun_by_assistant = {"messages": [{"role": "assistant", "content": "hi"}, *chat("and", "yes")["messages"]]}
    assert encoder(strict)(begun_by_assistant) == REFUSED
    assert learnt(encoder()(begun_by_assistant)) == "yes<end>"
    assert learnt(encoder()(chat("hi", "", "and", "no"))) == "no<end>"  # an empty answer teaches nothing


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([{"role": "user", "content": "a"}], [{"role": "user", "content": "a"}]),
        ([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], None),
        (None, EMPTY),
        ([], EMPTY),
        ("text", BROKEN),
        ([3], BROKEN),
        ([{"role": "user"}], BROKEN),
        ([{"role": "user", "content": ["part"]}], BROKEN),
    ],
)
def test_messages_are_read_by_either_names(value: Any, found: Any) -> None:
    expected = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] if found is None else found
    assert read_messages(value) == expected
