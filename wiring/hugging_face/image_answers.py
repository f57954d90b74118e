"""What an image-text model answers about a picture, made from the SampleOptions object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core import ConfigError
from core.batch import to_device
from data.rows.chat import TemplateError
from data.rows.images import IMAGES, USER, read_images
from extras.hugging_face.image_collation import ImageCollator
from extras.hugging_face.processor import make_processor
from extras.sampling.text_continuation import SEPARATOR
from wiring.hugging_face.image_rows import render_with_images

if TYPE_CHECKING:
    import torch

    from config.options import SampleOptions
    from wiring.sampling import TrainedModel


def answers_about_image(
    trained: TrainedModel, prompt: str, options: SampleOptions, device: torch.device
) -> Iterator[str]:
    """Yield `num_samples` answers to a prompt about a picture, each with the prompt before it and a separator after it.

    Raises ConfigError if the model reads no images, or the picture cannot be read.
    """
    if getattr(trained.tokenizer, "processor", None) is None:
        raise ConfigError(f"image={options.image}: the model is none of images and text: remove it")
    try:
        images = read_images(options.image)
    except Exception as error:  # of many kinds
        raise ConfigError(
            f"image={options.image}: the picture cannot be read ({type(error).__name__}: {error}): give another file"
        ) from None
    processor = make_processor(trained.tokenizer)
    question = prompt if options.changed("start") else ""
    try:
        text = render_with_images(processor)([{"role": USER, "content": question, IMAGES: 1}], True)
        inputs = to_device(ImageCollator(processor).encode([text], [images]), device)
    except (TemplateError, ValueError) as error:
        raise ConfigError(f"image={options.image}: the model's processor refuses it: {error}") from None
    length, longest = inputs["input_ids"].size(1), trained.model.config.block_size
    if length >= longest:
        raise ConfigError(
            f"image={options.image}: with the prompt it has {length} tokens, and the model takes {longest}"
        )
    settings = options.pick("temperature", "top_k")
    for _ in range(options.num_samples):
        written = trained.model.answer(inputs, min(options.max_new_tokens, longest - length), **settings)
        yield f"{question}\n{processor.tokenizer.decode(written, skip_special_tokens=True)}\n{SEPARATOR}"
