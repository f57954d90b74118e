"""Encoding of a user's text into token ids that a model accepts."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from data.tokenizers import Tokenizer

log = logging.getLogger("coregpt")
BEGINNINGS = (" ", "<|endoftext|>", "<s>", "<bos>", "[BOS]", "[CLS]")  # what a text begins with, in many vocabularies


class PromptEncoder:
    """Encodes texts for one model. vocab_size, block_size: the model's; name: of the text, in error messages"""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, block_size: int, name: str = "--start") -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.block_size = block_size
        self.name = name

    def encode(self, text: str, name: str = "", reserved: int = 0) -> list[int]:
        """Return the token ids of a text. Raises ConfigError if the text is empty or does not fit the model.

        name: of this text, in error messages; reserved: positions that other tokens take, such as CLS
        """
        name = name or self.name
        ids = self._encode(text, name)
        room = self.block_size - reserved
        if not ids:
            raise ConfigError(f"{name} is empty: give a text, such as --start='To be', or --start=FILE:page.txt")
        if len(ids) > room:
            raise ConfigError(f"{name} has {len(ids)} tokens, and the model takes {room} at most: shorten it")
        self._require_in_vocabulary(max(ids))
        return ids

    def to_continue(self, text: str, is_default: bool = False) -> list[int]:
        """Return the token ids of a text that a model is to continue; it may be longer than the model's block_size.

        is_default: the user has not asked for this text; where the vocabulary lacks it, another beginning is taken

        Raises ConfigError or DataError if nothing is left to continue, or the model has no such token.
        """
        ids: list[int] = []
        try:
            ids = self.tokenizer.encode(text)
        except DataError:
            if not is_default:
                raise
        if not ids and is_default:
            ids = self._beginning()
            shown = self.tokenizer.decode(ids)
            log.warning(
                f"the vocabulary has no token for {text!r}: the text begins with {shown!r}; --start sets another"
            )
        if not ids:  # the model needs one position to continue
            raise ConfigError(f"{self.name} is empty: give the model at least one character to continue")
        self._require_in_vocabulary(max(ids))
        return ids

    def with_masks(self, text: str, mask_token_id: int, mask_char: str | None, new: int) -> list[int]:
        """Return the token ids of a text with masks: one for each `mask_char`, or else masks after the text.

        new: number of masks after the text; fewer if the model's block_size has no room for them
        """
        if mask_char and mask_char not in text:
            raise ConfigError(f"{self.name} has no {mask_char!r} (mask_char): put one where a mask is to be filled")
        first, *others = text.split(mask_char) if mask_char else [text]
        ids = self._encode(first, self.name)
        for part in others:
            ids += [mask_token_id, *self._encode(part, self.name)]
        self._require_in_vocabulary(max([mask_token_id, *ids]))
        room = self.block_size - len(ids)
        if room < (0 if others else 1):
            raise ConfigError(
                f"{self.name} has {len(ids)} tokens, and the model's block_size={self.block_size} leaves no place to "
                "write: shorten it"
            )
        if others:
            return ids
        return ids + [mask_token_id] * min(new, room)

    def _beginning(self) -> list[int]:
        """Return the id of a usual beginning of texts, else of the first token."""
        for text in BEGINNINGS:
            with suppress(DataError):
                ids = self.tokenizer.encode(text)
                if len(ids) == 1 and self.tokenizer.decode(ids).strip() == text.strip():  # else it is unknown
                    return ids
        return [0]

    def _encode(self, text: str, name: str) -> list[int]:
        try:
            return self.tokenizer.encode(text)
        except DataError as error:  # characters that the data set does not have
            raise DataError(f"{name}: {error}") from None

    def _require_in_vocabulary(self, token: int) -> None:
        if token >= self.vocab_size:
            raise DataError(
                f"token {token} is none of the model's {self.vocab_size}: the data set under data/ has another "
                "vocabulary than the model was trained on, or its meta.pkl is missing; provide the right data set"
            )
