"""A byte-level BPE of one's own: trained by the tokenizers package, run by tiktoken."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from core.commands import install_command
from core.errors import ConfigError, DataError
from data.package_tokenizers import TiktokenTokenizer

END = "<|endoftext|>"
BYTES = 256
WORDS = re.compile(rb"[A-Za-z\x80-\xff]+|[0-9]+")  # about those of the pattern
WORD_BYTES = 3 * 10**6  # of different words; the trainer takes 10 to 100 times as much memory
SMALLEST = BYTES + 1  # ids: all bytes, and the end of a text
# GPT-2's words as tiktoken finds them fastest: a run of letters never gives one back
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


class Sample:
    """Texts of at most `limit` bytes, evenly spread over all that are added, however many follow."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.texts: list[bytes] = []
        self._size = self._count = 0
        self._step = 1  # every so many-th text is kept

    def add(self, text: str) -> None:
        """Keep or drop a text. If the sample becomes too large, every second text of it is dropped."""
        if self._count % self._step == 0:
            kept = text.encode("utf-8", errors="replace")[: self.limit]
            self.texts.append(kept)
            self._size += len(kept)
            while self._size > self.limit:
                self._halve()
        self._count += 1

    def _halve(self) -> None:
        self.texts, self._step = self.texts[::2], 2 * self._step
        self._size = sum(map(len, self.texts))

    def limit_words(self, limit: int) -> None:
        """Drop every second text until the different words have at most `limit` bytes: a trainer keeps each of them."""
        while len(self.texts) > 1 and _bytes_of_words(self.texts, limit) > limit:
            self._halve()

    def drain(self) -> Iterator[str]:
        """Yield the texts in order, and forget them."""
        self.texts.reverse()
        while self.texts:
            yield self.texts.pop().decode("utf-8", errors="ignore")


def _bytes_of_words(texts: list[bytes], limit: int) -> int:
    """Return the size of all different words, or a number above `limit`."""
    known: set[bytes] = set()
    size = 0
    for text in texts:
        new = set(WORDS.findall(text)) - known
        size += sum(map(len, new))
        if size > limit:
            break
        known |= new
    return size


def require_packages() -> None:
    """Raise ConfigError if a package that trains or runs the tokenizer is missing."""
    try:
        import tiktoken
        import tokenizers
    except ImportError as error:
        raise ConfigError(
            f"--tokenizer bpe needs the packages tokenizers and tiktoken ({error}): {install_command('hf')}"
        ) from error
    del tiktoken, tokenizers


def train(sample: Sample, vocab_size: int) -> TiktokenTokenizer:
    """Return a tokenizer of at most `vocab_size` ids, trained on the sample, which is empty then.

    Ids 0 to 255 are the bytes, the last id is <|endoftext|>, and between them are the merged tokens in the order in
    which they were learnt. A short text has fewer pairs of tokens to merge, and the vocabulary is smaller then.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    sample.limit_words(WORD_BYTES)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=sorted(_bytes_by_letter()), special_tokens=[], show_progress=False
    )
    learner.train_from_iterator(sample.drain(), trainer)
    ranks = _ranks(json.loads(learner.to_str())["model"]["vocab"])
    if not BYTES <= len(ranks) < vocab_size:
        raise DataError(
            f"the tokenizers package has trained {len(ranks)} tokens, wanted {BYTES} to {vocab_size - 1}: "
            "pip install --upgrade tokenizers"
        )
    return TiktokenTokenizer(encoding_arguments(ranks))


def encoding_arguments(ranks: dict[bytes, int]) -> dict[str, Any]:
    """Return the arguments of a tiktoken.Encoding with these tokens, GPT-2's pattern, and <|endoftext|> as last id."""
    digest = hashlib.sha256(json.dumps([token.hex() for token in ranks]).encode()).hexdigest()
    name = f"bpe-{digest[:8]}"  # data sets with other tokens have another name
    return {"name": name, "pat_str": PATTERN, "mergeable_ranks": ranks, "special_tokens": {END: len(ranks)}}


def _ranks(vocab: dict[str, int]) -> dict[bytes, int]:
    """Return the tokens as bytes with their ids: first each byte, then merged tokens in the order of their ids."""
    letters = _bytes_by_letter()
    ordered = sorted(vocab, key=lambda token: vocab[token])
    merged = [bytes(letters[letter] for letter in token) for token in ordered if len(token) > 1]
    return {token: rank for rank, token in enumerate([*(bytes([byte]) for byte in range(BYTES)), *merged])}


def _bytes_by_letter() -> dict[str, int]:
    """Return the byte for each letter by which byte-level BPEs write it: itself, or for others one from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(BYTES) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + number): byte for number, byte in enumerate(hidden)}
