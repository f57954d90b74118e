"""The tokenizers of data sets as tokenizers of the transformers package: the same ids for the same text."""

import base64
import re
import tempfile
from pathlib import Path
from typing import Any

from data.package_tokenizers import HuggingFaceTokenizer, TiktokenTokenizer
from data.tokenizers import ByteTokenizer, CharTokenizer, Gpt2Tokenizer, Tokenizer

END = "<|endoftext|>"


def to_hugging_face(tokenizer: Tokenizer, block_size: int) -> Any:
    """Return a tokenizer of transformers that gives the same ids; None if there is none for this kind.

    block_size: the most tokens that the model takes

    Characters, bytes, and the byte-pair encodings of tiktoken have one. A text with another character than those of the
    data set is an error there, too.
    """
    from transformers import PreTrainedTokenizerFast

    special: dict[str, str] = {}
    if isinstance(tokenizer, CharTokenizer):
        made = _characters(tokenizer)
    elif isinstance(tokenizer, HuggingFaceTokenizer):
        made, special = tokenizer.tokenizer, tokenizer.special_tokens
        special = {**special, **({"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {})}
        block_size = tokenizer.longest or block_size
    elif isinstance(tokenizer, ByteTokenizer):
        made = _byte_pairs({bytes([byte]): byte for byte in range(256)}, pattern=None)
    elif isinstance(tokenizer, TiktokenTokenizer):
        encoding = tokenizer.encoding
        pattern = None if isinstance(tokenizer, Gpt2Tokenizer) else encoding._pat_str
        made = _byte_pairs(encoding._mergeable_ranks, pattern, splits_words=True)
        numbers = dict(sorted(encoding._special_tokens.items(), key=lambda item: item[1]))
        made.add_special_tokens(list(numbers))
        if any(made.token_to_id(token) != number for token, number in numbers.items()):  # there are gaps
            return None
        special = dict.fromkeys(("bos_token", "eos_token"), END) if END in numbers else {}
    else:
        return None
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=block_size,
        clean_up_tokenization_spaces=False,
        **special,
    )


def _characters(tokenizer: CharTokenizer) -> Any:
    """Return a tokenizer with a token for each character; without an unknown token, others are an error."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.WordLevel(dict(tokenizer.stoi), unk_token="\ufffd\ufffd"))  # no character is that
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    made.decoder = decoders.Fuse()
    return made


def _byte_pairs(ranks: dict[bytes, int], pattern: str | None, splits_words: bool = False) -> Any:
    """Return a byte-level BPE with these tokens, of which each is merged before those of higher ranks.

    pattern:      what splits a text into words; None: GPT-2's
    splits_words: False takes a text as it is
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import TikTokenConverter

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "ranks.tiktoken")
        file.write_bytes(b"".join(b"%b %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items()))
        vocab, merges = TikTokenConverter(str(file)).extract_vocab_merges_from_model(str(file))
    made = Tokenizer(models.BPE(vocab, merges, fuse_unk=False, ignore_merges=True))
    by_byte: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splits_words and pattern is None)
    if pattern is not None:
        words = pre_tokenizers.Split(Regex(_in_ruby_syntax(pattern)), behavior="isolated")
        by_byte = pre_tokenizers.Sequence([words, by_byte])
    made.pre_tokenizer = by_byte
    made.decoder = decoders.ByteLevel()
    return made


def _in_ruby_syntax(pattern: str) -> str:
    """Return tiktoken's regular expression for the tokenizers package.

    There `$` is the end of a line, not of the text, and a `+` after `{1,3}` repeats instead of forbidding to go back.
    """
    possessive = re.sub(r"(\\[pP]\{\w+\}|\[(?:\\.|[^\]\\])*\]|\\.|[^\\)])(\{\d+(?:,\d*)?\})\+", r"(?>\1\2)", pattern)
    return re.sub(r"(?<!\\)\$", r"\\z", possessive)
