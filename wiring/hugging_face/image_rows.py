"""Rows with images as the data of a run: the processor of its model, and what encodes and collates them by it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import ConfigError
from data.package_tokenizers import HuggingFaceTokenizer
from data.rows.chat import ChatEncoder, TemplateError
from data.rows.images import ASSISTANT, IMAGES, TEXTS, USER, ImageRows, ImageTextEncoder
from data.rows.opening import RowSplits
from extras.hugging_face.image_collation import ImageCollator, find_stand_ins, image_tokens
from extras.hugging_face.processor import ONE_IMAGE, files_of, make_processor

if TYPE_CHECKING:
    from config.options import Options

log = logging.getLogger("coregpt")
COLUMNS = ("text_column", "prompt_column", "response_column", "messages_column")
WITHOUT_EFFECT = (*COLUMNS, "max_input_length", "max_target_length", "packing", "streaming")  # on rows with images


def find_processor(options: Options, tokenizer: HuggingFaceTokenizer) -> tuple[Any, HuggingFaceTokenizer]:
    """Return the processor of an image-text model, and its tokenizer, which keeps it; None for other models."""
    if tokenizer.processor is None:
        return None, tokenizer
    processor = make_processor(tokenizer)
    if options.chat_template:
        processor.chat_template = read_template(options.chat_template)
        tokenizer = tokenizer.with_processor(files_of(processor))
    return processor, tokenizer


def read_template(name: str) -> str:
    """Return the chat template in a file. Raises ConfigError if it cannot be read."""
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"chat_template={name} cannot be read ({error}): give a file with a template") from None


def have_images(rows: RowSplits) -> bool:
    """Return whether rows have images, and what is asked and answered about them."""
    return {IMAGES, TEXTS} <= set(rows.columns)


def with_places(rows: RowSplits, where: str) -> RowSplits:
    """Return rows with images, each with its place for messages. where: the name of the data set"""
    training, validation = rows.training, rows.validation
    validation = None if validation is None else ImageRows(validation, f"{where}: validation")
    return rows._replace(training=ImageRows(training, f"{where}: train"), validation=validation)


def image_coding(
    options: Options, tokenizer: HuggingFaceTokenizer, processor: Any, model_type: str
) -> tuple[ImageTextEncoder, ImageCollator]:
    """Return what encodes rows with images, and what makes batches of them. Raises ConfigError if they do not fit."""
    if processor is None:
        raise ConfigError(
            f"rows with {IMAGES} and {TEXTS} are for image-text models, whose folder has a processor of images: set "
            "init_from=hf:NAME to one, such as a Llama-3.2-Vision"
        )
    if no_effect := options.changed(*WITHOUT_EFFECT):
        raise ConfigError(f"{', '.join(no_effect)}: without effect on rows with images: remove it")
    if processor.chat_template is None:
        raise ConfigError(
            "rows with images need a chat template, and the model's processor has none: set chat_template=FILE"
        )
    collator, marks = ImageCollator(processor, options.pad_to_multiple_of), image_tokens(processor)
    special = [token.content for token in tokenizer.tokenizer.get_added_tokens_decoder().values() if token.special]
    render = render_with_images(processor)
    chat = ChatEncoder(tokenizer, render, TEXTS, options.block_size, controls=sorted({*special, *marks}))
    _check_template(chat, set(special))
    encoder = ImageTextEncoder(
        chat,
        collator.measure,
        options.block_size,
        most=1 if model_type in ONE_IMAGE else None,
        stand_ins=find_stand_ins(processor),
        image_ids=processor.tokenizer.convert_tokens_to_ids(marks),
    )
    return encoder, collator


def _check_template(chat: ChatEncoder, special: set[str]) -> None:
    """Raise ConfigError for a chat template without images; warn if answers do not end in it."""
    question, answer = {"role": USER, "content": "a"}, {"role": ASSISTANT, "content": "b"}
    try:
        has_images = chat.render([{**question, IMAGES: 1}], True) != chat.render([question], True)
        text = chat.render([question, answer], False).rstrip()
    except TemplateError as error:
        raise ConfigError(f"the chat template cannot be run ({error}): set chat_template=FILE to another one") from None
    if not has_images:
        raise ConfigError(
            "the chat template writes nothing for an image: set chat_template=FILE to one that is made for the model"
        )
    if not any(text.endswith(token) for token in special):
        log.warning("data: the chat template ends answers with no token: the model cannot learn where one ends")


def render_with_images(processor: Any) -> Callable[[Sequence[Mapping[str, Any]], bool], str]:
    """Return `render(messages, begins_answer) -> text` by the chat template of a processor.

    A message has as many images in front of its text as `images` in it says.
    """

    def render(messages: Sequence[Mapping[str, Any]], begins_answer: bool) -> str:
        written = [
            {
                "role": message["role"],
                "content": [{"type": "image"}] * message.get(IMAGES, 0)
                + [{"type": "text", "text": message["content"]}],
            }
            for message in messages
        ]
        try:
            text: str = processor.apply_chat_template(written, tokenize=False, add_generation_prompt=begins_answer)
        except Exception as error:  # Jinja's, or raised by the template itself
            raise TemplateError(str(error)) from None
        return text

    return render
