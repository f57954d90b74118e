"""Rows with images as batches: what a model's processor makes of them, with labels."""

from collections.abc import Sequence
from typing import Any

import torch

from data.rows.encoding import IGNORED
from data.rows.images import StandIn, place_labels
from data.rows.items import Item

Batch = dict[str, torch.Tensor]


class ImageCollator:
    """Makes batches of rows with images, padded on the right to the longest row.

    processor: of transformers, an image-text model's
    """

    def __init__(self, processor: Any, pad_to_multiple_of: int | None = None) -> None:
        tokenizer = processor.tokenizer
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        tokenizer.padding_side = "right"
        self.processor, self.settings = processor, {"pad_to_multiple_of": pad_to_multiple_of}

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Return the inputs of the model by name, and `labels` (B, T), IGNORED on padding, images and questions."""
        rows = [row for item in items for row in item]
        made = [row.image_text for row in rows if row.image_text is not None]
        batch = self.encode([row.text for row in made], [row.images() for row in made], **self.settings)
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for place, row in enumerate(rows):
            length = int(batch["attention_mask"][place].sum())
            ids, learnt = place_labels(row, batch["input_ids"][place, :length].tolist())
            batch["input_ids"][place, :length] = torch.tensor(ids)
            labels[place, :length] = torch.tensor(learnt)
        return {**batch, "labels": labels}

    def measure(self, text: str, images: Sequence[Any]) -> list[int]:
        """Return the ids of one row."""
        ids: list[int] = self.encode([text], [images])["input_ids"][0].tolist()
        return ids

    def encode(self, texts: Sequence[str], images: Sequence[Sequence[Any]], **settings: Any) -> Batch:
        """Return the inputs of the model for texts of its chat template, with the images that each has marks for.

        A start token is added only where the template writes none.
        """
        start = self.processor.tokenizer.bos_token
        given = {"text": list(texts), "images": [list(row) for row in images], "return_tensors": "pt"}
        starts = not (start and texts[0].startswith(start))
        return dict(self.processor(**given, padding=True, add_special_tokens=starts, **settings))


def image_tokens(processor: Any) -> list[str]:
    """Return the control tokens that mean an image, or a part of one, to a processor."""
    known = {token.content for token in processor.tokenizer.added_tokens_decoder.values()}
    named = [value for name, value in vars(processor).items() if "token" in name and isinstance(value, str)]
    return [token for token in dict.fromkeys(named) if token in known and token != processor.tokenizer.bos_token]


def find_stand_ins(processor: Any) -> list[StandIn]:
    """Return the control tokens of a processor's tokenizer that mean nothing to the processor itself."""
    tokenizer = processor.tokenizer
    taken = {*image_tokens(processor), tokenizer.bos_token}
    return [
        StandIn(token.content, number)
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and token.content not in taken and not (token.lstrip or token.rstrip or token.single_word)
    ]
