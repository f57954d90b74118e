"""Prepare a data set from your own text files, or from a data set of Hugging Face: write data/NAME/ or a folder.

With --workers, --out, --hf-dataset or --tokenizer bpe, a text of any size takes little memory, and the same command
continues where a killed one has stopped. The token files are the same.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core.commands import argument_parser
from core.errors import ConfigError, DataError, exit_on_error
from core.files import PARTIAL, path_argument
from data.corpus import STAGING, as_data_error, read_text, write_text
from data.preparation import byte_pairs
from data.preparation.hugging_face_rows import HuggingFaceRows
from data.preparation.prepare_texts import Settings, prepare_texts
from data.preparation.text_pieces import FileTexts
from data.preparation.unfinished import UNFINISHED
from data.prepare_scripts import output_folder
from data.tokenizers import ByteTokenizer, CharTokenizer, Gpt2Tokenizer, Tokenizer

OWN_FILES = {"train.bin", "val.bin", "meta.pkl", "input.txt", STAGING, STAGING + PARTIAL, UNFINISHED}
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BPE_ONLY, ROWS_ONLY = ("vocab_size", "train_bytes"), ("hf_config", "hf_split", "text_column")
VOCAB_SIZE, TRAIN_BYTES = 16384, 100 * 1000**2


def main(argv: Sequence[str] | None = None, data: Path | None = None) -> None:
    """Join the files in the order given, as `cat` does, and write the data set to data/NAME, or to --out."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if not args.files and args.hf_dataset is None:
        parser.error("the following arguments are required: FILE (or --hf-dataset)")
    if (args.name is None) == (args.out is None):
        parser.error("give --name NAME, for the folder data/NAME, or --out FOLDER, and not both")

    folder = args.out if args.name is None else data_folder(data or output_folder(__file__).parent, args.name)
    check_folder(folder, "--out" if args.name is None else "--name")
    if not 0 < args.val_fraction < 1:
        raise ConfigError(f"--val-fraction is {args.val_fraction}, wanted a number between 0 and 1")
    check_options(args)
    if args.workers or args.out or args.hf_dataset is not None or args.tokenizer == "bpe":
        prepare_in_pieces(folder, args)
        return
    text = "".join(map(read_text, args.files))
    if not text:
        raise DataError(f"no text in {', '.join(map(str, args.files))}: give a file that is not empty")
    tokenizer = make_tokenizer(args.tokenizer, text)
    print(f"length of dataset in characters: {len(text):,}")
    print(f"vocab size: {tokenizer.vocab_size:,}")
    write_text(folder, text, tokenizer, args.val_fraction)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the script's arguments."""
    parser = argument_parser("data/text/prepare.py", __doc__)
    parser.add_argument(
        "files",
        nargs="*",
        type=path_argument,
        metavar="FILE",
        help="text, in UTF-8 or in UTF-16 with its byte-order mark",
    )
    parser.add_argument("--name", help="name of the data set and of its folder under data/")
    parser.add_argument("--out", type=path_argument, metavar="FOLDER", help="its folder, in place of --name")
    parser.add_argument("--tokenizer", required=True, choices=("char", "byte", "gpt2", "bpe"))
    parser.add_argument("--val-fraction", type=float, default=0.1, help="fraction kept for validation (0.1)")
    parser.add_argument("--workers", type=positive, metavar="N", help="threads that encode (one per core)")
    bpe = parser.add_argument_group("a byte-level BPE of your own, --tokenizer bpe")
    bpe.add_argument("--vocab-size", type=int, metavar="V", help=f"number of ids ({VOCAB_SIZE})")
    bpe.add_argument(
        "--train-bytes", type=byte_count, metavar="SIZE", help="text to train it on, spread over the input (100MB)"
    )
    rows = parser.add_argument_group("texts from a data set of Hugging Face; an end of text follows each row")
    rows.add_argument("--hf-dataset", metavar="NAME", help="its name, or a .jsonl, .json, .parquet or .txt file")
    rows.add_argument("--hf-config", metavar="C", help="configuration of the data set")
    rows.add_argument("--hf-split", metavar="S", help="split whose rows are used (train)")
    rows.add_argument("--text-column", metavar="COLUMN", help="column that holds the text (text)")
    return parser


def positive(text: str) -> int:
    """Return a number of threads, for argparse's `type`."""
    if not re.fullmatch("0*[1-9][0-9]{0,3}", text):
        raise argparse.ArgumentTypeError(f"got {text[:200]}, wanted a whole number from 1 to 9999")
    return int(text)


def byte_count(text: str) -> int:
    """Return the number of bytes that a text such as 100MB means, for argparse's `type`."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]+)?) ?([KMGT]?)B?", text.upper())
    count = int(float(found[1]) * UNITS[found[2]]) if found else 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"got {text[:200]}, wanted a size such as 100MB")
    return count


def check_options(args: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not go together or are out of range."""
    for names, is_used, wanted in (
        (BPE_ONLY, args.tokenizer == "bpe", "--tokenizer bpe"),
        (ROWS_ONLY, args.hf_dataset is not None, "--hf-dataset"),
    ):
        for name in names:
            if getattr(args, name) is not None and not is_used:
                raise ConfigError(f"--{name.replace('_', '-')} has a meaning only with {wanted}: add that, or drop it")
    if args.files and args.hf_dataset is not None:
        raise ConfigError("both FILE and --hf-dataset are given: prepare one data set at a time")
    if args.vocab_size is not None and args.vocab_size < byte_pairs.SMALLEST:
        raise ConfigError(
            f"--vocab-size is {args.vocab_size}, wanted {byte_pairs.SMALLEST} or more: the 256 bytes and "
            f"{byte_pairs.END} are always part of it"
        )


def prepare_in_pieces(folder: Path, args: argparse.Namespace) -> None:
    """Write the data set in bounded memory, with several threads, and print the lines that are always printed."""
    if args.tokenizer == "bpe":
        byte_pairs.require_packages()
    vocab_size, train_bytes = args.vocab_size or VOCAB_SIZE, args.train_bytes or TRAIN_BYTES
    if args.tokenizer != "bpe":
        vocab_size = train_bytes = 0
    is_rows = args.hf_dataset is not None
    source: FileTexts | HuggingFaceRows = FileTexts(args.files)
    if is_rows:
        split, column = args.hf_split or "train", args.text_column or "text"
        source = HuggingFaceRows(args.hf_dataset, args.hf_config, split, column)
    settings = Settings(args.tokenizer, vocab_size, train_bytes, args.val_fraction)
    counts = prepare_texts(source, settings, folder, args.workers or core_count())
    print(f"length of dataset in {'rows' if is_rows else 'characters'}: {counts.length:,}")
    print(f"vocab size: {counts.vocab_size:,}")
    print(f"train has {counts.train_tokens:,} tokens")
    print(f"val has {counts.val_tokens:,} tokens")


def core_count() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def data_folder(data: Path, name: str) -> Path:
    """Return the folder of the data set `name`; ConfigError if the name is none."""
    if not name or name.startswith(".") or set(name) & set("/\\:"):
        raise ConfigError(f"--name is {name!r}, wanted a plain name for a folder under data/")
    return data / name


def check_folder(folder: Path, option: str) -> None:
    """Raise ConfigError if a folder holds other files than those of a data set. option: that names the folder"""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: choose another {option}")
    with as_data_error(folder):
        foreign = sorted({file.name for file in folder.iterdir()} - OWN_FILES) if folder.exists() else []
    if foreign:
        raise ConfigError(f"{folder} holds other files ({', '.join(foreign[:3])}): choose another {option}")


def make_tokenizer(name: str, text: str) -> Tokenizer:
    """Return the tokenizer called `name`; the character tokenizer has the characters of `text`."""
    if name == "char":
        return CharTokenizer.from_text(text)
    return ByteTokenizer() if name == "byte" else Gpt2Tokenizer()


if __name__ == "__main__":
    with exit_on_error():
        main()
