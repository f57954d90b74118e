"""Rows with images: read, counted, encoded with labels on the answers, and placed in what a processor makes of them."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.errors import DataError
from data.rows.chat import CONTROL, REFUSED, UNANSWERED, ChatEncoder, TemplateError
from data.rows.encoding import BROKEN, EMPTY, IGNORED, Example
from data.rows.images import (
    BROKEN_IMAGE,
    TOO_LONG,
    ImageRows,
    ImageTextEncoder,
    StandIn,
    place_labels,
    read_images,
    read_turns,
)
from data.rows.table import Examples
from tests.data.rows.test_chat import MARKS, Letters
from tests.hf.tiny_images import picture

IMAGE = 9  # id of the image's mark, and of the tokens that an image becomes


class Marked(Letters):
    """`Letters` with a token for an image, written as #."""

    def marked_spans(self, text: str) -> list[tuple[int, int, int]]:
        return [
            (IMAGE if number == ord("#") else number, first, last) for number, first, last in super().marked_spans(text)
        ]


def render(messages: Sequence[Mapping[str, Any]], begins_answer: bool) -> str:
    turns = [f"<{m['role']}>{'#' * m.get('images', 0)}{m['content']}<end>" for m in messages]
    return "".join(turns) + ("<assistant>" if begins_answer else "")


class Processor:
    """Makes of an image as many tokens as it is wide; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, text: str, images: Sequence[Any]) -> list[int]:
        self.calls += 1
        widths, ids = iter(image.width for image in images), []
        for number, _, _ in Marked().marked_spans(text):
            ids += [number] * (next(widths) if number == IMAGE else 1)
        return ids


def encoder(
    measure: Any = None, limit: int = 100, most: int | None = 1, stand_ins: Sequence[StandIn] = (StandIn("<s>", 0),)
) -> ImageTextEncoder:
    chat = ChatEncoder(Marked(), render, "texts", limit, controls=[*MARKS, "#"])
    return ImageTextEncoder(chat, measure or Processor(), limit, most=most, stand_ins=stand_ins, image_ids=[IMAGE])


def row(*texts: tuple[str, str], images: Any = None) -> Mapping[str, Any]:
    turns = [{"user": user, "assistant": assistant} for user, assistant in texts]
    return ImageRows([{"images": [picture(1, 4)] if images is None else images, "texts": turns}], "mine.py: train")[0]


def learnt(labels: Sequence[int]) -> str:
    return Letters().text([label for label in labels if label != IGNORED])


def test_answers_are_learnt_with_their_ends() -> None:
    found = encoder()(row(("hi", "yes"), ("and", "no")))

    assert isinstance(found, Example) and found.image_text is not None
    assert learnt(found.labels) == "yes<end>no<end>" and found.input_ids.count(IMAGE) == 1
    ids, labels = place_labels(found, Processor()(found.image_text.text, found.image_text.images()))
    assert len(ids) == len(labels) == found.length == len(found.input_ids) + 3  # an image of 4 tokens
    assert learnt(labels) == "yes<end>no<end>"
    assert [label for number, label in zip(ids, labels, strict=True) if number == IMAGE] == [IGNORED] * 4


def test_what_people_wrote_gives_ordinary_ids() -> None:
    """The processor sees stand-ins, as it would take a written # for an image, and <end> for a mark."""
    found = encoder()(row(("a # here <end>", "say <end>#")))

    assert isinstance(found, Example) and found.image_text is not None
    text = found.image_text.text
    assert text.count("#") == 1 and text.count("<end>") == 2 and "here" not in text
    ids, labels = place_labels(found, Processor()(text, found.image_text.images()))
    assert ids.count(IMAGE) == 4 and ids.count(MARKS.index("<end>")) == 2
    assert [chr(number) for number in ids if number > IMAGE] == list("a # here <end>say <end>#")
    assert learnt(labels) == "say <end>#<end>"


def test_a_row_without_a_stand_in_is_dropped() -> None:
    assert encoder(stand_ins=[])(row(("a #", "b"))) == CONTROL
    assert encoder(stand_ins=[StandIn("<end>", 1)])(row(("a #", "b"))) == CONTROL  # the template writes it, too
    assert isinstance(encoder(stand_ins=[])(row(("a", "b"))), Example)

    class Stubborn(Marked):
        def spans(self, text: str) -> list[tuple[int, int, int]]:
            return self.marked_spans(text)

    stubborn = encoder()
    stubborn.chat.tokens = Stubborn()
    assert stubborn(row(("a #", "b"))) == CONTROL


def test_a_row_beyond_the_limit_is_dropped_with_its_image() -> None:
    length = len(
        render([{"role": "user", "content": "hi", "images": 1}, {"role": "assistant", "content": "yes"}], False)
    )
    length -= sum(len(mark) - 1 for mark in ("<user>", "<end>", "<assistant>", "<end>"))
    assert isinstance(encoder(limit=length + 3)(row(("hi", "yes"))), Example)
    assert encoder(limit=length + 2)(row(("hi", "yes"))) == TOO_LONG


def test_a_processor_is_asked_once_for_each_size() -> None:
    processor = Processor()
    encode = encoder(processor)
    rows = [row(("hi", "yes"), images=[picture(number, 4 + number % 2)]) for number in range(6)]
    lengths = [found.length for found in map(encode, rows) if isinstance(found, Example)]

    assert processor.calls == 2 and lengths == [lengths[0], lengths[0] + 1] * 3


def test_other_images_make_another_row() -> None:
    texts = [{"user": "hi", "assistant": "yes"}]
    pictures = [picture(1, 4), picture(2, 4), picture(1, 4)]
    found = Examples(
        ImageRows([{"images": [image], "texts": texts} for image in pictures], "mine.py: train"),  # type: ignore[arg-type]
        range(3),
        encoder(),
        drops_duplicates=True,
    )

    assert found.numbers == [0, 1] and found.lengths == [found[0].length] * 2


@pytest.mark.parametrize(
    ("count", "most", "message"),
    [
        (2, 1, "mine.py: train row 0 has 2 images, wanted one for this model: change the row"),
        (0, 1, "mine.py: train row 0 has 0 images, wanted one for this model"),
        (0, None, "mine.py: train row 0 has 0 images, wanted at least one for this model"),
        (4, 3, "mine.py: train row 0 has 4 images, wanted 1 to 3 for this model"),
    ],
)
def test_a_row_with_the_wrong_number_of_images_is_named(count: int, most: int | None, message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        encoder(most=most)(row(("hi", "yes"), images=[picture(1, 4)] * count))


def test_several_images_are_read_where_the_model_takes_them() -> None:
    found = encoder(most=None)(row(("hi", "yes"), images=[picture(1, 4), picture(2, 5)]))

    assert isinstance(found, Example) and found.image_text is not None
    assert found.input_ids.count(IMAGE) == 2 and found.image_text.added == 3 + 4


def test_rows_without_something_to_learn_have_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    encode = encoder()
    for number, wanted in ((1, BROKEN), (None, EMPTY), ("text", BROKEN), ([1], BROKEN), ([{"user": "a"}], BROKEN)):
        assert encode({**row(), "texts": number}) == wanted
    assert encode(row(("hi", " "))) == UNANSWERED
    for _ in range(2):
        assert encode(row(("hi", "yes"), images=["gone.png"])) == BROKEN_IMAGE
    assert [text for text in caplog.messages if text.startswith("mine.py: train row 0: its image cannot be read (")]
    assert len(caplog.messages) == 1

    def refuses(messages: Any, begins_answer: bool) -> str:
        raise TemplateError

    encode.chat.render = refuses
    assert encode(row(("hi", "yes"))) == REFUSED


def test_a_row_that_is_no_dict_is_named() -> None:
    with pytest.raises(DataError, match="^mine.py: train row 0 is a int, wanted a dict with images and texts"):
        ImageRows([3], "mine.py: train")[0]  # type: ignore[list-item]


def test_a_processor_that_changes_the_answers_is_refused() -> None:
    for measure in (
        lambda text, images: [*Processor()(text, images), 7],
        lambda text, images: Processor()(text.replace("s<end>", "<end>"), images),
    ):
        with pytest.raises(DataError, match="^mine.py: train row 0: the model's processor gives other tokens for the"):
            encoder(measure)(row(("hi", "yes")))
    with pytest.raises(DataError, match="gives other tokens"):  # a stand-in is lost
        encoder(lambda text, images: Processor()(text.replace("<s>", "", 1), images))(row(("#", "yes")))

    def fails(text: str, images: Any) -> list[int]:
        raise ValueError("too small")

    with pytest.raises(DataError, match="^mine.py: train row 0: the model's processor refuses it: too small$"):
        encoder(fails)(row(("hi", "yes")))


def test_turns_become_messages() -> None:
    assert read_turns([{"user": "a", "assistant": 4}]) == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "4"},
    ]


def test_images_are_read_from_what_data_sets_hold(tmp_path: Path) -> None:
    image, file, stream = picture(1), tmp_path / "a.png", io.BytesIO()
    image.save(file)
    image.save(stream, "png")
    kept = [image, np.asarray(image), str(file), file, {"bytes": stream.getvalue(), "path": None}]
    kept += [{"bytes": None, "path": str(file)}, image.convert("RGBA")]

    for value in kept:
        (found,) = read_images([value])
        assert isinstance(found, Image.Image) and found.mode == "RGB" and found.tobytes() == image.tobytes()
    assert len(read_images(image)) == 1
