"""Texts of any size to a data set: one pass over them to learn the vocabulary, one to encode them."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from core.errors import CoreGPTError, DataError
from data.corpus import as_data_error
from data.preparation import byte_pairs
from data.preparation.encoding import Piece, encode_in_order, end_id
from data.preparation.hugging_face_rows import HuggingFaceRows
from data.preparation.text_pieces import CHANGED, FileTexts, pieces
from data.preparation.unfinished import UnfinishedDataSet
from data.token_file import token_dtype
from data.tokenizers import ByteTokenizer, CharTokenizer, Gpt2Tokenizer, Tokenizer

log = logging.getLogger("coregpt")
Source: TypeAlias = FileTexts | HuggingFaceRows
SAMPLE_PIECE = 2**16  # characters; the sample of a large text has hundreds of such pieces


class Settings(NamedTuple):
    """What is made of a text.

    tokenizer:    char, byte, gpt2 or bpe
    vocab_size:   number of ids of a bpe
    train_bytes:  of text in UTF-8 on which a bpe is trained, at most
    val_fraction: fraction for validation: of the characters of files, or of the tokens of rows
    """

    tokenizer: str
    vocab_size: int
    train_bytes: int
    val_fraction: float


class Counts(NamedTuple):
    """Numbers of a finished data set. length: characters of files, or rows of a data set"""

    length: int
    vocab_size: int
    train_tokens: int
    val_tokens: int


def prepare_texts(source: Source, settings: Settings, folder: Path, workers: int) -> Counts:
    """Write the data set of a source, with `workers` threads.

    The ids of files are those of their joined text, of which the last `val_fraction` of the characters is val.bin. Each
    row of a data set is followed by <|endoftext|>, or by a line end if the tokenizer has none; val.bin holds the last
    rows. The memory that this takes does not depend on the size of the source, except for its longest row.

    What a killed process has written is used by the next call with the same source and settings: the files are the same
    to the byte as without the kill. Raises DataError if the source cannot be read or the folder not be written to.
    """
    with as_data_error(folder):
        arguments = {"source": source.fingerprint(), "rows": isinstance(source, HuggingFaceRows), **settings._asdict()}
        with UnfinishedDataSet(folder, arguments) as work:
            try:
                return _continue(work, source, settings, workers)
            except CoreGPTError:
                if not work.record["tokens"]["train"] or work.record.get("done_reading"):
                    work.discard()  # a second run would not get any further
                raise


def _continue(work: UnfinishedDataSet, source: Source, settings: Settings, workers: int) -> Counts:
    """Do what is left to do."""
    if "has_meta" not in work.record:
        characters, tokenizer = survey(source, settings)
        work.save(characters=characters)
        work.keep_tokenizer(tokenizer)
    elif work.record.get("done"):
        unit = "characters" if isinstance(source, FileTexts) else "rows"
        log.warning(f"{work.folder}: continues after {work.record['done']:,} {unit} of an interrupted run")
    if not work.record.get("complete"):
        tokenizer = work.tokenizer()
        work.save(vocab_size=tokenizer.vocab_size)
        _encode(work, source, settings, tokenizer, workers)
    train, val = work.finish()
    length = work.record["done" if isinstance(source, HuggingFaceRows) else "characters"]
    return Counts(length, work.record["vocab_size"], train, val)


def survey(source: Source, settings: Settings) -> tuple[int, Tokenizer]:
    """Return the number of characters of a source, and its tokenizer; 0 for rows that need not be read for that.

    Raises DataError if there is no text.
    """
    name, alphabet, sample = settings.tokenizer, set[str](), byte_pairs.Sample(settings.train_bytes)
    if name == "gpt2" or name == "byte":
        tokenizer: Tokenizer = Gpt2Tokenizer() if name == "gpt2" else ByteTokenizer()
        if isinstance(source, HuggingFaceRows):
            return 0, tokenizer
    length = 0
    for text in _survey_texts(source, settings):
        length += len(text)
        if name == "char":
            alphabet.update(text)
        elif name == "bpe":
            sample.add(text)
    if not length:
        raise _no_text()
    if name == "char":
        tokenizer = CharTokenizer.from_text("".join(alphabet | set(source.row_end)))
    elif name == "bpe":
        tokenizer = byte_pairs.train(sample, settings.vocab_size)
    return length, tokenizer


def _no_text() -> DataError:
    return DataError("the files or rows hold no text: give a file or a data set that is not empty")


def _survey_texts(source: Source, settings: Settings) -> Iterable[str]:
    if settings.tokenizer != "bpe" or isinstance(source, HuggingFaceRows):
        return source.texts()
    return pieces(source.texts(), max(min(SAMPLE_PIECE, settings.train_bytes // 16), 1))


def _encode(work: UnfinishedDataSet, source: Source, settings: Settings, tokenizer: Tokenizer, workers: int) -> None:
    """Write the token files, from where the record of the work says that they end."""
    dtype: Any = token_dtype({"vocab_size": tokenizer.vocab_size}, work.folder / "meta.pkl")
    if isinstance(source, HuggingFaceRows):
        end = end_id(tokenizer)
        if "cut" not in work.record:
            rows = source.pieces(work.record.get("done", 0))
            if end is None:
                rows = (Piece(units, [text + source.row_end for text in texts]) for units, texts in rows)
            work.append("train", encode_in_order(rows, tokenizer, dtype, workers, end), dtype)
        work.record["done_reading"] = True
        if not work.record["tokens"]["train"]:
            raise _no_text()
        ends_row = int(tokenizer.encode(source.row_end)[0]) if end is None else end
        work.divide(ends_row, settings.val_fraction, dtype)
        return
    total = work.record["characters"]
    cut = int(total * (1 - settings.val_fraction))
    for split, begin, stop in (("train", 0, cut), ("val", cut, total)):
        done = work.record.get("done", 0)
        if done < stop or split == "val":
            texts = _file_pieces(source, max(begin, done), stop, settings.tokenizer in ("gpt2", "bpe"))
            work.append(split, encode_in_order(texts, tokenizer, dtype, workers), dtype)
    if work.record.get("done", 0) != total:
        raise DataError(f"{work.record.get('done', 0):,} of {total:,} characters were read: {CHANGED}")
    work.record["done_reading"] = True


def _file_pieces(source: FileTexts, begin: int, end: int, are_words: bool) -> Iterator[Piece]:
    """Yield the characters from `begin` to `end`. are_words: whether the tokenizer does not cut just anywhere"""
    blocks = source.read(begin, end) if begin < end else iter(())
    for text in pieces(blocks) if are_words else blocks:
        yield Piece(len(text), [text])
