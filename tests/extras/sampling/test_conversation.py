"""A text written in turns: what a model sees of lines and replies."""

from typing import Any

import pytest
import torch

from core.errors import ConfigError, DataError
from data.tokenizers import CharTokenizer, Tokenizer
from extras.sampling.conversation import Conversation
from extras.sampling.prompt_encoder import PromptEncoder

SETTINGS: dict[str, Any] = dict(max_new_tokens=2, temperature=0.5, top_k=7)


class Reciter:
    """A model that writes `text`, again and again."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        self.tokenizer = tokenizer
        self.count = 0

    def generate(self, ids: torch.Tensor, max_new_tokens: int, temperature: float, top_k: int) -> torch.Tensor:
        (token,) = self.tokenizer.encode(self.text[self.count % len(self.text)])
        self.count += 1
        return torch.cat([ids, torch.tensor([[token]])], dim=1)


def conversation(writes: str = "xy", characters: str = "\nabcxy", start: str = "") -> Conversation:
    tokenizer = CharTokenizer.from_text(characters)
    encoder = PromptEncoder(tokenizer, len(characters), 4)
    return Conversation(Reciter(writes, tokenizer), encoder, torch.device("cpu"), start=start, **SETTINGS)


def said(talk: Conversation, *lines: str) -> str:
    """Return the text so far after replies to these lines."""
    for line in lines:
        assert len(list(talk.reply(line))) == 2
    return talk.encoder.tokenizer.decode(talk.ids)


def test_a_reply_continues_the_line() -> None:
    talk = conversation()
    pieces = talk.reply("ab")

    assert next(pieces) == "x"
    assert talk.encoder.tokenizer.decode(talk.ids) == "abx"
    assert list(pieces) == ["y"]


def test_a_line_break_stands_between_a_reply_and_the_next_line() -> None:
    assert said(conversation(), "ab", "c", "a") == "abxy\ncxy\naxy"
    assert said(conversation("x\n"), "ab", "c") == "abx\ncx\n"


def test_a_vocabulary_without_line_breaks_has_none_between_turns() -> None:
    talk = conversation(characters="abcxy")

    assert said(talk, "ab", "c") == "abxycxy"
    with pytest.raises(DataError, match="5 characters lack 'z': "):
        next(talk.reply("z"))


def test_an_empty_line_lets_the_model_go_on() -> None:
    assert said(conversation(), "ab", "", "c") == "abxyxy\ncxy"


def test_an_empty_first_line_is_the_default_prompt(caplog: pytest.LogCaptureFixture) -> None:
    assert said(conversation(), "") == "\nxy"
    assert not caplog.messages
    assert said(conversation(characters=" bcxy"), "") == " xy"
    assert "the vocabulary has no token for" in caplog.text


def test_a_reset_forgets_all_but_the_start() -> None:
    talk = conversation(start="c")
    assert said(talk, "ab", "b") == "cabxy\nbxy"
    talk.reset()
    assert said(talk, "a") == "caxy"
    talk = conversation()
    said(talk, "ab")
    talk.reset()
    assert said(talk, "c") == "cxy"


def test_a_line_that_cannot_be_encoded_changes_nothing() -> None:
    talk = conversation()
    before = said(talk, "ab")
    with pytest.raises(DataError, match="6 characters lack 'z': "):
        next(talk.reply("az"))

    assert said(talk, "c") == before + "\ncxy"


def test_a_reply_that_is_stopped_is_kept_as_far_as_it_came() -> None:
    talk = conversation()
    next(talk.reply("ab"))

    assert said(talk, "c") == "abx\ncyx"


def test_a_wrong_start_and_a_model_that_cannot_write_are_refused() -> None:
    with pytest.raises(DataError, match="6 characters lack 'z': "):
        conversation(start="z")
    encoder = PromptEncoder(CharTokenizer.from_text("ab"), 2, 4)
    with pytest.raises(ConfigError, match="model.py's GPT has no method generate, which sampling needs"):
        Conversation(object(), encoder, torch.device("cpu"), **SETTINGS)
