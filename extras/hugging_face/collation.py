"""Rows as batches of tensors: padded side by side, or packed one after the other."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from core.errors import ConfigError
from data.rows.encoding import IGNORED
from data.rows.items import Item

Batch = dict[str, torch.Tensor]
Collate = Callable[[Sequence[Item]], Batch]


def padding_collate(tokenizer: Any, pad_to_multiple_of: int | None = None) -> Collate:
    """Return `collate(items) -> batch` that pads each row to the longest one, by transformers' collator.

    Padding has label -100 by its position, so that an end token that is also the padding token is learnt.

    tokenizer: of transformers; without a padding token it pads with its end token, or else with id 0
    """
    from transformers import DataCollatorForSeq2Seq

    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    tokenizer.padding_side = "right"
    collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED, pad_to_multiple_of=pad_to_multiple_of)

    def collate(items: Sequence[Item]) -> Batch:
        rows = [
            {"input_ids": row.input_ids, "attention_mask": [1] * len(row.input_ids), "labels": row.labels}
            for item in items
            for row in item
        ]
        return dict(collator(rows))

    return collate


def packing_collate(block: int, pad_id: int) -> Collate:
    """Return `collate(items) -> batch` that puts the rows of each item one after the other, padded to `block` tokens.

    position_ids (B, T) begin at 0 for each row and for the padding: with them, and without a mask and a cache, the
    models of transformers keep rows apart. Nothing predicts the first token of a row: its label is -100.
    """

    def collate(items: Sequence[Item]) -> Batch:
        ids = torch.full((len(items), block), pad_id)
        labels = torch.full((len(items), block), IGNORED)
        positions = torch.zeros((len(items), block), dtype=torch.long)
        for place, item in enumerate(items):
            start = 0
            for row in item:
                end = start + len(row.input_ids)
                ids[place, start:end] = torch.tensor(row.input_ids)
                labels[place, start:end] = torch.tensor([IGNORED, *row.labels[1:]])
                positions[place, start:end] = torch.arange(end - start)
                start = end
            positions[place, start:] = torch.arange(block - start)
        return {"input_ids": ids, "labels": labels, "position_ids": positions}

    return collate


@torch.no_grad()
def require_separate_rows(model: Any, vocab_size: int) -> None:
    """Raise ConfigError if a model lets packed rows see each other: changing one row must move no logit of another."""
    length = 8
    first = torch.arange(length) % (vocab_size - 1)
    positions = torch.arange(length).repeat(2)[None].repeat(2, 1)  # (2, 2 * length)
    ids = torch.stack([torch.cat([first, first]), torch.cat([first + 1, first])])
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    try:
        labels = torch.full_like(ids, IGNORED)
        logits = [
            model(input_ids=row[None].to(device), position_ids=place[None].to(device), labels=labels[:1].to(device))
            for row, place in zip(ids, positions, strict=True)
        ]
    finally:
        model.train(was_training)
    if not torch.equal(logits[0][:, length:], logits[1][:, length:]):
        raise ConfigError(
            "packing=True: in this model the rows of a sequence see each other, so that packing would change what is "
            "learnt: set packing=False"
        )
