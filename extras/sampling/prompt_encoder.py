"""Turning what a user gives as text into token ids that a model can take, or into one clear message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from data.tokenizers import Tokenizer


class PromptEncoder:
    """Encodes texts for one model. vocab_size, block_size: the model's"""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, block_size: int) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.block_size = block_size

    def encode(self, text: str, what: str = "--start", beside: int = 0) -> list[int]:
        """Return the token ids of a whole text, which has to be 1 token at least and to fit the model.

        what: the text's name in messages; beside: tokens that go into the model with it
        """
        ids = self._ids(text, what)
        room = self.block_size - beside
        if not ids:
            raise ConfigError(f"{what} is empty: give a text, such as --start='To be', or --start=FILE:page.txt")
        if len(ids) > room:
            raise ConfigError(f"{what} has {len(ids)} tokens, and the model takes {room} at most: shorten it")
        self._check_known(max(ids))
        return ids

    def with_masks(self, text: str, mask_token_id: int, mask_char: str | None, new: int) -> list[int]:
        """Return the token ids with masks to be filled: where the text has `mask_char`, else up to `new` after it.

        The masks after it are as many as the model has room for.
        """
        if mask_char and mask_char not in text:
            raise ConfigError(f"--start has no {mask_char!r} (mask_char): put one where a mask is to be filled")
        first, *others = text.split(mask_char) if mask_char else [text]
        ids = self._ids(first)
        for part in others:
            ids += [mask_token_id, *self._ids(part)]
        self._check_known(max([mask_token_id, *ids]))
        room = self.block_size - len(ids)
        if room < (0 if others else 1):
            raise ConfigError(
                f"--start has {len(ids)} tokens, and the model's block_size={self.block_size} leaves no place to "
                "write: shorten it"
            )
        if others:
            return ids
        return ids + [mask_token_id] * min(new, room)

    def _ids(self, text: str, what: str = "--start") -> list[int]:
        try:
            return self.tokenizer.encode(text)
        except DataError as error:  # characters that the data set does not have
            raise DataError(f"{what}: {error}") from None

    def _check_known(self, token: int) -> None:
        """Raise DataError for a token id that the model does not know."""
        if token >= self.vocab_size:
            raise DataError(
                f"token {token} is none of the model's {self.vocab_size}: the data set under data/ has another "
                "vocabulary than the one the model was trained on, or lacks its meta.pkl; bring the right one"
            )
