"""The tokenizer in the folder of a Hugging Face model, as the entries of a meta.pkl."""

import logging
from pathlib import Path
from typing import Any

from core.errors import CoreGPTError
from data.package_tokenizers import HuggingFaceTokenizer
from data.tokenizers import tokenizer_from_meta
from extras.hugging_face.packages import import_transformers
from extras.hugging_face.processor import processor_files

log = logging.getLogger("coregpt")

FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json")
UNKNOWN_LENGTH = 10**9  # transformers has a larger number for a length that is not known
PROBE = "To be, or not to be:\n    def f(x): return x[1:] + 'äß' * 10  # <|endoftext|>\t\n"


def tokenizer_meta(name: str) -> dict[str, Any] | None:
    """Return what a checkpoint keeps of a model's tokenizer; None if its folder has none, or one of another kind.

    name: of the hub, or a folder

    For a folder without these files transformers may make an empty tokenizer, so they are looked for.
    """
    if Path(name).is_dir() and not any(Path(name, file).is_file() for file in FILES):
        return None
    transformers = import_transformers()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # of many kinds; the model may be fine without
        log.warning(f"{name}: its tokenizer cannot be read ({(str(error).splitlines() or [''])[0]})")
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        log.warning(f"{name}: its tokenizer has no tokenizer.json, and cannot be kept in checkpoints")
        return None
    special = {meaning: token for meaning, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    template = getattr(tokenizer, "chat_template", None)
    template = template if isinstance(template, str) else None
    longest = tokenizer.model_max_length if tokenizer.model_max_length < UNKNOWN_LENGTH else None
    processor = processor_files(name)
    return HuggingFaceTokenizer(backend.to_str(), special, template, longest, processor).meta()


def give_other_ids(then: dict[str, Any], now: dict[str, Any] | None) -> bool:
    """Return whether the tokenizers of two meta.pkl give different ids for a text; None means GPT-2's."""
    try:
        return tokenizer_from_meta(then).encode_ordinary(PROBE) != tokenizer_from_meta(now).encode_ordinary(PROBE)
    except CoreGPTError:  # of characters that the text has not
        return True
