"""The processors of image-text models, which make tensors of texts and images, as files that checkpoints keep."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.commands import install_command
from core.errors import ConfigError
from data.package_tokenizers import HuggingFaceTokenizer
from data.tokenizers import Tokenizer
from extras.hugging_face.packages import first_line, import_transformers
from extras.hugging_face.tokenizer_export import to_hugging_face

log = logging.getLogger("coregpt")

FILES = ("processor_config.json", "preprocessor_config.json")  # one of them is in the folder of such a model
TOKENIZER = "tokenizer.json"  # kept by itself
ONE_IMAGE = ("mllama",)  # types of models that have learnt from texts about one image each
Files = Mapping[str, str]


def takes_images(config: Any) -> bool:
    """Return whether a config of transformers is that of a model that reads text with images, and continues it."""
    import transformers

    if config.is_encoder_decoder or type(config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return False
    has_text_alone = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    return not has_text_alone or getattr(config, "vision_config", None) is not None


def processor_files(name: str) -> dict[str, str] | None:
    """Return the files of a model's processor by their names, but for the tokenizer's; None if it has none.

    name: of the hub, or a folder
    """
    transformers = import_transformers()
    if not _has_processor(name):
        return None
    try:
        processor = transformers.AutoProcessor.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # of many kinds; the model may be fine without
        log.warning(f"{name}: its processor of images cannot be read ({first_line(error)})")
        return None
    return files_of(processor) if hasattr(processor, "image_processor") and hasattr(processor, "tokenizer") else None


def _has_processor(name: str) -> bool:
    """Return whether a folder holds a processor; of the hub, whether the model is one that takes images."""
    if Path(name).is_dir():
        return any(Path(name, file).is_file() for file in FILES)
    try:
        return takes_images(import_transformers().AutoConfig.from_pretrained(name, trust_remote_code=False))
    except (OSError, ValueError, KeyError):  # a tokenizer without a model
        return False


def files_of(processor: Any) -> dict[str, str]:
    """Return the files that a processor of transformers writes, but for the tokenizer's own."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        files = sorted(file for file in Path(folder).iterdir() if file.is_file() and file.name != TOKENIZER)
        return {file.name: file.read_text(encoding="utf-8") for file in files}


def make_processor(tokenizer: HuggingFaceTokenizer) -> Any:
    """Return the processor of transformers that comes with a tokenizer. Raises ConfigError if it cannot be made."""
    transformers = import_transformers()
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise ConfigError(f"images need the pillow package: {install_command('hf')}") from None
    assert tokenizer.processor is not None
    with tempfile.TemporaryDirectory() as folder:
        for name, content in {**tokenizer.processor, TOKENIZER: tokenizer.json}.items():
            Path(folder, Path(name).name).write_text(content, encoding="utf-8")
        try:
            return transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # of many kinds
            raise ConfigError(
                f"the model's processor of images cannot be made ({first_line(error)}): install the "
                "version of transformers that the model was trained with"
            ) from error


def preprocessor_of(tokenizer: Tokenizer, block_size: int) -> Any:
    """Return what makes a model's inputs as a folder of transformers holds it: a processor, a tokenizer, or None.

    block_size: see `to_hugging_face`
    """
    if isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.processor is not None:
        return make_processor(tokenizer)
    return to_hugging_face(tokenizer, block_size)
