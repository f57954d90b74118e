"""Rows with images and what is asked and answered about them: loaded, and encoded by the chat template of a model."""

import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import DataError, WarnOnce
from data.rows.chat import CONTROL, ChatEncoder, Message
from data.rows.encoding import BROKEN, EMPTY, IGNORED, Example, ImageText, as_text

IMAGES, TEXTS = "images", "texts"  # columns of such rows
USER, ASSISTANT = "user", "assistant"  # in each of the texts
PLACE, READ = "place of the row", "reads the images again"  # what `ImageRows` adds
BROKEN_IMAGE = "whose image cannot be read"
TOO_LONG = "longer than block_size, which must not cut an image"

Measure = Callable[[str, Sequence[Any]], list[int]]  # (text, images) -> the ids that a processor makes


class StandIn(NamedTuple):
    """A control token that stands for tokens that people wrote, where a text goes to a processor."""

    text: str
    number: int


class ImageRows:
    """Rows with images, each with its place for messages. where: the data set and the split"""

    def __init__(self, rows: Sequence[Mapping[str, Any]], where: str) -> None:
        self.rows, self.where = rows, where

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        """Return a row with its place, and a function that reads its images again."""
        row, place = self.rows[number], f"{self.where} row {number}"
        if not isinstance(row, Mapping):
            raise DataError(f"{place} is a {type(row).__name__}, wanted a dict with {IMAGES} and {TEXTS}")

        def read() -> list[Any]:
            return read_images(self.rows[number][IMAGES])

        return {**row, PLACE: place, READ: read}


class ImageTextEncoder:
    """Encodes a row of `ImageRows` for a causal model: answers are learnt, with the end of their turn.

    chat:    the encoder of its text; the template puts as many images into a message as `images` in it says
    measure: the processor of the model. The tokens that it adds are taken to depend on the sizes of the images alone
    limit:   the most tokens of a row
    most:    the most images of a row; None: any number
    stand_ins: tokens that can stand for those that people wrote
    image_ids: of image tokens; a row is dropped if a text that people wrote gives one

    Raises DataError for a row with more images, or without one, and for one that the processor changes.
    """

    def __init__(
        self,
        chat: ChatEncoder,
        measure: Measure,
        limit: int,
        *,
        most: int | None,
        stand_ins: Sequence[StandIn],
        image_ids: Sequence[int],
    ) -> None:
        self.chat, self.measure, self.limit, self.most = chat, measure, limit, most
        self.stand_ins, self.image_ids = stand_ins, set(image_ids)
        self._known: dict[tuple[Any, ...], int] = {}  # added tokens, by the sizes of the images
        self._warn = WarnOnce()

    def __call__(self, row: Mapping[str, Any]) -> Example | str:
        """Return the row's example, or why it has none."""
        messages = read_turns(row.get(TEXTS))
        if isinstance(messages, str):
            return messages
        messages[0][IMAGES] = self._count(row)
        try:
            images = read_images(row[IMAGES])
        except Exception as error:  # of many kinds
            self._warn(f"{row[PLACE]}: its image cannot be read ({type(error).__name__}: {error})", BROKEN_IMAGE)
            return BROKEN_IMAGE
        found = self.chat.read(messages)
        if isinstance(found, str):
            return found
        written = [token for part in found.parts for token in part.ordinary or ()]
        template = "".join(part.text for part in found.parts if part.ordinary is None)
        stand_in = next((mark for mark in self.stand_ins if mark.text not in template), None)
        if written and (stand_in is None or self.image_ids & set(written)):
            return CONTROL
        text = "".join(
            part.text if part.ordinary is None or stand_in is None else stand_in.text * len(part.ordinary)
            for part in found.parts
        )
        made = ImageText(
            text, row[READ], stand_in.number if stand_in else None, written, 0, _digest(images), row[PLACE]
        )
        example = Example(found.ids, found.labels, image_text=made)
        example = example._replace(image_text=made._replace(added=self._added(example, images)))
        return TOO_LONG if example.length > self.limit else example

    def _count(self, row: Mapping[str, Any]) -> int:
        """Return how many images a row has."""
        images = row.get(IMAGES)
        count = len(images) if isinstance(images, list | tuple) else int(images is not None)
        if count and (self.most is None or count <= self.most):
            return count
        wanted = "at least one" if self.most is None else "one" if self.most == 1 else f"1 to {self.most}"
        raise DataError(f"{row[PLACE]} has {count} images, wanted {wanted} for this model: change the row")

    def _added(self, example: Example, images: Sequence[Any]) -> int:
        """Return how many tokens the processor adds to a row."""
        made = example.image_text
        assert made is not None
        sizes = tuple(image.size for image in images)
        if sizes not in self._known:
            try:
                given = self.measure(made.text, images)
            except Exception as error:  # of many kinds
                raise DataError(f"{made.place}: the model's processor refuses it: {error}") from error
            place_labels(example, given)
            self._known[sizes] = len(given) - len(example.input_ids)
        return self._known[sizes]


def place_labels(example: Example, ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the ids of a row as a processor makes them, with what people wrote in place of stand-ins, and the labels.

    Images are before the first answer, so that the labels are counted from the end. Raises DataError if the processor
    gives other tokens there than the tokenizer.

    ids: of the processor, without padding
    """
    made = example.image_text
    assert made is not None
    found, written = list(ids), iter(made.written)
    places = [place for place, number in enumerate(found) if made.written and number == made.stand_in]
    for place, number in zip(places, written, strict=False):
        found[place] = number
    first = next(number for number, label in enumerate(example.labels) if label != IGNORED)
    learnt, labels = example.input_ids[first:], example.labels[first:]
    if len(places) != len(made.written) or found[-len(learnt) :] != learnt:
        raise DataError(
            f"{made.place}: the model's processor gives other tokens for the answers than its tokenizer: look at the "
            "chat template, or give a get_data_collator in the dataset_file"
        )
    return found, [IGNORED] * (len(found) - len(labels)) + labels


def read_turns(texts: Any) -> list[Message] | str:
    """Return the messages of what is asked and answered, or why there are none."""
    if not texts:
        return EMPTY
    if not isinstance(texts, Sequence) or isinstance(texts, str):
        return BROKEN
    messages: list[Message] = []
    for turn in texts:
        if not isinstance(turn, Mapping):
            return BROKEN
        for role in (USER, ASSISTANT):
            content = as_text(turn.get(role))
            if not isinstance(content, str):
                return BROKEN
            messages.append({"role": role, "content": content})
    return messages


def read_images(value: Any) -> list[Any]:
    """Return the images of a row, as pictures of Pillow in red, green and blue.

    value: one or several: pictures of Pillow, arrays (H, W, 3) uint8, paths, or what data sets hold in place of a
           picture, {"bytes": ..., "path": ...}
    """
    from PIL import Image

    def read(image: Any) -> Any:
        if isinstance(image, Mapping):
            content = image.get("bytes")
            image = str(image["path"]) if content is None else io.BytesIO(content)
        if isinstance(image, str | Path | io.BytesIO):
            with Image.open(image) as opened:
                return opened.convert("RGB")
        return image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image).convert("RGB")

    return [read(image) for image in (value if isinstance(value, list | tuple) else [value])]


def _digest(images: Sequence[Any]) -> int:
    digest = 0
    for image in images:
        digest = zlib.crc32(image.tobytes(), zlib.crc32(repr(image.size).encode(), digest))
    return digest
