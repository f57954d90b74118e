"""Vocabulary: the token ids of a text and the special tokens beyond them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from core.errors import ConfigError

RESERVED = 15  # ids beyond those of the text; the number that the train_run line reserves


class Vocabulary(NamedTuple):
    """Sizes and ids of a vocabulary.

    text:           number of text tokens; random replacements are drawn from ids below it
    mask, cls, pad: ids of the special tokens, all of them >= text
    size:           vocab_size of the model
    """

    text: int
    mask: int
    cls: int
    pad: int
    size: int

    @classmethod
    def beyond(cls, text: int, *, mask: int | None = None, cls_token: int | None = None) -> "Vocabulary":
        """Return the vocabulary of a text with `text` ids; by default special tokens have the train_run line's ids.

        Raises ConfigError for a special token with the id of a text token or of another special token.
        """
        mask = text if mask is None else mask
        cls_token = text + 5 if cls_token is None else cls_token
        pad = next(number for number in range(text + 6, text + 9) if number not in (mask, cls_token))
        found = cls(text, mask, cls_token, pad, size=max(text + RESERVED, mask + 1, cls_token + 1))
        for name, number in (("cls_token_id", found.cls), ("mask_token_id", found.mask)):
            if number < text:
                raise ConfigError(
                    f"{name}={number} is inside the text's vocabulary of {text} tokens: wanted {text} or more, "
                    "or None for the default"
                )
        if found.cls == found.mask:
            raise ConfigError(f"mask_token_id and cls_token_id are both {found.mask}: choose another for one of them")
        return found

    @classmethod
    def of(cls, meta: Mapping[str, Any], size: int) -> "Vocabulary":
        """Return the vocabulary of a meta.pkl or checkpoint; a missing special token gets the unused id `size`."""
        found = {name: meta.get(f"{name}_token_id") for name in ("mask", "cls", "pad")}
        known = {name: size if number is None else int(number) for name, number in found.items()}
        return cls(text=int(meta.get("text_vocab_size", min(*known.values(), size))), size=size, **known)

    def meta(self) -> dict[str, int]:
        """Return the vocabulary as a dict with the keys of a queue's meta.pkl; `of` reads it."""
        ids = {"mask_token_id": self.mask, "pad_token_id": self.pad, "cls_token_id": self.cls}
        known = {name: number for name, number in ids.items() if number < self.size}
        return {"vocab_size": self.size, "text_vocab_size": self.text, **known}
