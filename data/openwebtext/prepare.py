"""Prepare OpenWebText, or your own documents, in GPT-2 tokens, with nanoGPT's split.

The corpus takes tens of GB in the Hugging Face cache; train.bin is about 17 GB, val.bin 8.5 MB.
"""

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from core.commands import argument_parser, install_command
from core.errors import ConfigError, DataError, exit_on_error
from core.files import path_argument
from data.corpus import read_text, write_chunks
from data.prepare_scripts import output_folder
from data.tokenizers import Gpt2Tokenizer

REPOSITORY = "Skylion007/openwebtext"
# The revision with the corpus as 80 parquet files. Earlier ones have a loading script, which `datasets` 4 and later do
# not run.
REVISION = "b4325f019c648b1641a1784748667e8b74e5e064"
FILES = "plain_text/train-*.parquet"
VAL_FRACTION = 0.0005
SEED = 2357
BATCH = 1024  # documents in memory at a time


def main(argv: Sequence[str] | None = None) -> None:
    """Tokenize the documents, each followed by the end-of-text token, and write the data set."""
    parser = argument_parser("data/openwebtext/prepare.py", __doc__)
    parser.add_argument(
        "--input",
        type=path_argument,
        nargs="+",
        metavar="FILE",
        help='your own documents: a .txt file is one document, a .jsonl file has one in the "text" of each line',
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", default=output_folder(__file__), help="output folder"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads for tokenizing")
    args = parser.parse_args(argv)

    if args.threads < 1:
        raise ConfigError(f"--threads is {args.threads}, wanted 1 or more")
    tokenizer = Gpt2Tokenizer()
    documents = local_documents(args.input) if args.input else hub_documents(load_corpus())
    train, val = (token_chunks(split, tokenizer, args.threads) for split in documents)
    train_count, val_count = write_chunks(args.out, train, val, tokenizer)
    print(f"train has {train_count:,} tokens")
    print(f"val has {val_count:,} tokens")


def token_chunks(documents: Iterable[str], tokenizer: Gpt2Tokenizer, threads: int) -> Iterator[list[int]]:
    """Yield the tokens of each document, followed by the end-of-text token."""
    remaining = iter(documents)
    while batch := list(islice(remaining, BATCH)):
        for ids in tokenizer.encode_ordinary_batch(batch, threads):
            yield [*ids, tokenizer.eot_token]


def load_corpus() -> Any:
    """Return the corpus as a Hugging Face dataset, from the cache or the hub; DataError if that fails."""
    try:
        import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise DataError(
            f"OpenWebText needs Hugging Face datasets: {install_command('hf')}, or give --input FILE"
        ) from error
    try:
        return datasets.load_dataset(REPOSITORY, revision=REVISION, data_files=FILES, split="train")
    except (OSError, RuntimeError, ValueError) as error:  # offline, disk full, or removed from the hub
        raise DataError(f"cannot load {REPOSITORY} ({error}): try later, or give --input FILE") from error


def hub_documents(corpus: Any) -> tuple[Iterator[str], Iterator[str]]:
    """Return the documents for training and for validation, with nanoGPT's random split."""
    splits = corpus.train_test_split(test_size=VAL_FRACTION, seed=SEED, shuffle=True)

    def texts(split: str) -> Iterator[str]:
        for batch in splits[split].iter(BATCH):
            yield from batch["text"]

    return texts("train"), texts("test")


def local_documents(paths: Sequence[Path]) -> tuple[Iterator[str], Iterator[str]]:
    """Return the documents for training and for validation, each in the order of the files.

    Validation gets the first documents of a shuffle with nanoGPT's seed. The files are read three times, because they
    may not fit in memory.
    """
    count = sum(1 for _ in read_documents(paths))
    if count < 2:
        raise DataError(f"{count} documents, wanted 2 or more: for one text use data/text/prepare.py")
    order = np.random.default_rng(SEED).permutation(count)
    chosen = set(order[: math.ceil(VAL_FRACTION * count)].tolist())
    train = (text for index, text in enumerate(read_documents(paths)) if index not in chosen)
    val = (text for index, text in enumerate(read_documents(paths)) if index in chosen)
    return train, val


def read_documents(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the documents of .txt and .jsonl files."""
    for path in paths:
        if path.suffix == ".txt":
            yield read_text(path)
        elif path.suffix == ".jsonl":
            yield from _read_json_lines(path)
        else:
            raise DataError(f"{path} is neither .txt nor .jsonl: rename or convert it")


def _read_json_lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _text_of(line, f"{path}, line {number}")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: convert it first") from error


def _text_of(line: str, where: str) -> str:
    """Return the "text" of a JSON line; `where` names the line in errors."""
    try:
        document = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error})") from error
    text = document.get("text") if isinstance(document, dict) else None
    if not isinstance(text, str):
        raise DataError(f'{where} has no "text": wanted an object such as {{"text": "..."}}')
    return text


if __name__ == "__main__":
    with exit_on_error():
        main()
