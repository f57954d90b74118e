"""A user's text as token ids, or an error that names the problem."""

import pytest

from core.errors import ConfigError, DataError
from data.tokenizers import CharTokenizer, tokenizer_from_meta
from extras.sampling.prompt_encoder import PromptEncoder

MASK = 5


@pytest.fixture
def prompts() -> PromptEncoder:
    """Return the encoder for a model of block size 6 and vocabulary size 8, and the characters a, b, c, d, e."""
    return PromptEncoder(CharTokenizer.from_text("abcde"), 8, 6)


def test_a_text_is_encoded(prompts: PromptEncoder) -> None:
    assert prompts.encode("abcdea") == [0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize(
    ("text", "reserved", "message"),
    [
        ("", 0, r"page is empty: give a text"),
        ("abcabca", 0, r"page has 7 tokens, and the model takes 6 at most: shorten it"),
        ("abcabc", 1, r"page has 6 tokens, and the model takes 5 at most"),
    ],
)
def test_a_text_that_does_not_fit_is_refused(prompts: PromptEncoder, text: str, reserved: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prompts.encode(text, "page", reserved)


@pytest.mark.parametrize(
    ("text", "mask_char", "new", "ids"),
    [
        ("", None, 3, [MASK] * 3),
        ("ab", None, 2, [0, 1, MASK, MASK]),
        ("ab", None, 500, [0, 1, MASK, MASK, MASK, MASK]),
        ("a__b_", "_", 500, [0, MASK, MASK, 1, MASK]),  # no mask is added
        ("______", "_", 1, [MASK] * 6),
        ("ab", "", 1, [0, 1, MASK]),
        ("abca", "b", 9, [0, MASK, 2, 0]),
    ],
)
def test_masks_are_appended_or_replace_mask_characters(
    prompts: PromptEncoder, text: str, mask_char: str | None, new: int, ids: list[int]
) -> None:
    assert prompts.with_masks(text, MASK, mask_char, new) == ids


@pytest.mark.parametrize(("text", "mask_char"), [("abcabc", None), ("abcabca", None), ("abc_abc", "_")])
def test_a_prompt_that_leaves_no_position_for_masks_is_refused(
    prompts: PromptEncoder, text: str, mask_char: str | None
) -> None:
    with pytest.raises(ConfigError, match=rf"--start has {len(text)} tokens, .* block_size=6 leaves no place"):
        prompts.with_masks(text, MASK, mask_char, 5)


def test_a_prompt_without_mask_characters_is_refused(prompts: PromptEncoder) -> None:
    with pytest.raises(ConfigError, match=r"^--start has no '_' \(mask_char\): put one where a mask is to be filled"):
        prompts.with_masks("ab", MASK, "_", 1)


def test_characters_that_the_data_set_lacks_are_refused(prompts: PromptEncoder) -> None:
    with pytest.raises(DataError, match=r"^page: the data set's \d+ characters lack 'z'"):
        prompts.encode("abz", "page")
    with pytest.raises(DataError, match=r"^--start: the data set's \d+ characters lack 'z'"):
        prompts.with_masks("a_z", MASK, "_", 1)


def test_ids_outside_the_models_vocabulary_are_refused(prompts: PromptEncoder) -> None:
    prompts.vocab_size = 4

    with pytest.raises(DataError, match=r"token 4 is none of the model's 4: .* another vocabulary"):
        prompts.encode("abe")
    with pytest.raises(DataError, match=r"token 5 is none of the model's 4"):
        prompts.with_masks("a", MASK, None, 2)
    with pytest.raises(DataError, match=r"token 4 is none of the model's 4"):
        prompts.to_continue("abe")


def test_a_text_to_continue_may_be_longer_than_the_block(prompts: PromptEncoder) -> None:
    assert prompts.to_continue("abc" * 5, is_default=True) == [0, 1, 2] * 5


def test_a_text_that_the_user_gives_is_not_replaced(prompts: PromptEncoder) -> None:
    with pytest.raises(ConfigError, match=r"^--start is empty: give the model at least one character"):
        prompts.to_continue("")
    with pytest.raises(DataError, match=r"^the data set's 5 characters lack '\\n'"):
        prompts.to_continue("\n")


@pytest.mark.parametrize(
    ("tokens", "ids", "shown"),
    [
        (["the", "and", "of"], [0], "'the'"),  # words, of which no text is only a line break
        (["<unk>", "the", "<s>"], [2], "'<s>'"),
        (["<unk>", "the"], [0], "'<unk>'"),
        (["a", " "], [1], "' '"),
        (["a", "b"], [0], "'a'"),
    ],
)
def test_a_vocabulary_without_line_breaks_has_another_default(
    tokens: list[str], ids: list[int], shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = tokenizer_from_meta({"vocab_size": len(tokens), "stoi": {token: n for n, token in enumerate(tokens)}})

    assert PromptEncoder(tokenizer, 8, 6).to_continue("\n", is_default=True) == ids

    assert caplog.messages == [
        rf"the vocabulary has no token for '\n': the text begins with {shown}; --start sets another"
    ]
