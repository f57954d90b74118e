"""A user's text as token ids, or an error that names the problem."""

import pytest

from core.errors import ConfigError, DataError
from data.tokenizers import CharTokenizer
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
