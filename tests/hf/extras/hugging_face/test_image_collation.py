"""Batches of rows with images: what the model's processor makes, with labels placed by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AutoProcessor

from data.rows.encoding import IGNORED, Example, ImageText
from extras.hugging_face.image_collation import ImageCollator, find_stand_ins, image_tokens
from tests.hf.tiny_images import BEGIN, END, MARK, PAD, picture

Words = Callable[[str], list[int]]


@pytest.fixture(params=["mllama", "llava"])
def processor(request: pytest.FixtureRequest, pictured: Path) -> Any:
    return AutoProcessor.from_pretrained(pictured / request.param)


def example(words: Words, processor: Any, question: str, answer: str, width: int, written: str = "") -> Example:
    """Return a row of a chat; `written` follows the question in ordinary tokens, and goes out as stand-ins."""
    mark, end = processor.tokenizer.convert_tokens_to_ids([MARK, END])
    apart = processor.tokenizer.encode(written, add_special_tokens=False, split_special_tokens=True)
    ids = [0, *words("[user]"), mark, *words(question), *apart, end]
    learnt = [*words(answer), end]
    text = f"{BEGIN}[user]{MARK}{question}{PAD * len(apart)}{END}{answer}{END}"
    made = ImageText(text, lambda: [picture(width, width)], 1, apart, 0, 0, "row 0")
    return Example([*ids, *learnt], [IGNORED] * len(ids) + learnt, image_text=made)


def test_a_batch_is_the_processors_with_labels(processor: Any) -> None:
    def words(text: str) -> list[int]:
        return list(processor.tokenizer.encode(text, add_special_tokens=False))

    rows = [example(words, processor, "the king", "love", 40), example(words, processor, "to", "war and night", 60)]
    batch = ImageCollator(processor)([[row] for row in rows])
    texts = [row.image_text.text for row in rows if row.image_text]
    wanted = processor(
        text=texts, images=[[picture(40, 40)], [picture(60, 60)]], padding=True, return_tensors="pt",
        add_special_tokens=False,
    )  # fmt: skip

    assert batch.keys() == {*wanted.keys(), "labels"} and (batch["input_ids"][:, 0] == 0).all()
    assert all(torch.equal(batch[name], wanted[name]) for name in wanted)
    by_hand = []
    for row, answer in zip(batch["input_ids"].tolist(), ("love", "war and night"), strict=True):
        learnt = [*words(answer), 2]
        padding = row[::-1].index(2)  # tokens after the last end
        by_hand.append([IGNORED] * (len(row) - padding - len(learnt)) + learnt + [IGNORED] * padding)
    assert batch["labels"].tolist() == by_hand and sum(row.count(2) for row in by_hand) == 2
    mark = processor.tokenizer.convert_tokens_to_ids(MARK)
    assert not {1, mark} & set(batch["labels"].flatten().tolist())
    assert (batch["attention_mask"].diff(dim=1) <= 0).all()  # padding is on the right


def test_written_marks_take_the_place_of_stand_ins(processor: Any) -> None:
    def words(text: str) -> list[int]:
        return list(processor.tokenizer.encode(text, add_special_tokens=False))

    row = example(words, processor, "to", "war", 40, written=f"a {MARK} and {END}")
    plain = example(words, processor, "to", "war", 40)
    ids, shorter = (ImageCollator(processor)([[each]])["input_ids"][0].tolist() for each in (row, plain))

    mark = processor.tokenizer.convert_tokens_to_ids(MARK)
    assert ids.count(mark) == shorter.count(mark) and ids.count(2) == 2 and 1 not in ids
    assert processor.tokenizer.decode(ids).endswith(f"toa {MARK} and {END}{END}war{END}")


@pytest.mark.parametrize("text", [f"{BEGIN}{MARK}to", f"{MARK}to"])
def test_a_start_token_is_added_once(pictured: Path, text: str) -> None:
    """By the template or by the tokenizer."""
    processor = AutoProcessor.from_pretrained(pictured / "llava")
    start = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    processor.tokenizer.backend_tokenizer.post_processor = start
    ids = ImageCollator(processor).measure(text, [picture(1)])

    assert ids[0] == 0 and ids.count(0) == 1


def test_rows_are_padded_to_a_multiple(processor: Any) -> None:
    def words(text: str) -> list[int]:
        return list(processor.tokenizer.encode(text, add_special_tokens=False))

    row = example(words, processor, "to", "war", 40)
    batch = ImageCollator(processor, 16)([[row]])
    assert batch["input_ids"].size(1) % 16 == 0 and batch["labels"].shape == batch["input_ids"].shape


def test_an_end_that_is_the_padding_is_learnt(processor: Any) -> None:
    def words(text: str) -> list[int]:
        return list(processor.tokenizer.encode(text, add_special_tokens=False))

    processor.tokenizer.pad_token = None
    rows = [example(words, processor, "to", "war", 40), example(words, processor, "to", "war and night", 40)]
    batch = ImageCollator(processor)([rows])

    assert batch["input_ids"][0, -1] == 2 and (batch["input_ids"][0] == 2).sum() > 2
    assert ((batch["labels"] == 2).sum(dim=1) == 1).all()


def test_stand_ins_mean_nothing_to_the_processor(processor: Any) -> None:
    assert [mark.text for mark in find_stand_ins(processor)] == [PAD, END]
    assert image_tokens(processor) == [MARK]
