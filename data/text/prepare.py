"""Prepare a data set from your own text files: write data/NAME/, ready for --dataset=NAME."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core.commands import argument_parser
from core.errors import ConfigError, DataError, exit_on_error
from core.files import PARTIAL, path_argument
from data.corpus import STAGING, read_text, write_text
from data.prepare_scripts import output_folder
from data.tokenizers import ByteTokenizer, CharTokenizer, Gpt2Tokenizer, Tokenizer

OWN_FILES = {"train.bin", "val.bin", "meta.pkl", "input.txt", STAGING, STAGING + PARTIAL}


def main(argv: Sequence[str] | None = None, data: Path | None = None) -> None:
    """Join the files in the order given, as `cat` does, and write the data set to data/NAME."""
    parser = argument_parser("data/text/prepare.py", __doc__)
    parser.add_argument(
        "files",
        nargs="+",
        type=path_argument,
        metavar="FILE",
        help="text, in UTF-8 or in UTF-16 with its byte-order mark",
    )
    parser.add_argument("--name", required=True, help="name of the data set and of its folder under data/")
    parser.add_argument("--tokenizer", required=True, choices=("char", "byte", "gpt2"))
    parser.add_argument("--val-fraction", type=float, default=0.1, help="fraction kept for validation (0.1)")
    args = parser.parse_args(argv)

    folder = target_folder(data or output_folder(__file__).parent, args.name)
    if not 0 < args.val_fraction < 1:
        raise ConfigError(f"--val-fraction is {args.val_fraction}, wanted a number between 0 and 1")
    text = "".join(map(read_text, args.files))
    if not text:
        raise DataError(f"no text in {', '.join(map(str, args.files))}: give a file that is not empty")
    tokenizer = make_tokenizer(args.tokenizer, text)
    print(f"length of dataset in characters: {len(text):,}")
    print(f"vocab size: {tokenizer.vocab_size:,}")
    write_text(folder, text, tokenizer, args.val_fraction)


def target_folder(data: Path, name: str) -> Path:
    """Return the folder of the data set `name`; ConfigError if the name is bad or the folder holds other files."""
    if not name or name.startswith(".") or set(name) & set("/\\:"):
        raise ConfigError(f"--name is {name!r}, wanted a plain name for a folder under data/")
    folder = data / name
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: choose another --name")
    foreign = sorted({file.name for file in folder.iterdir()} - OWN_FILES) if folder.exists() else []
    if foreign:
        raise ConfigError(f"{folder} holds other files ({', '.join(foreign[:3])}): choose another --name")
    return folder


def make_tokenizer(name: str, text: str) -> Tokenizer:
    """Return the tokenizer called `name`; the character tokenizer has the characters of `text`."""
    if name == "char":
        return CharTokenizer.from_text(text)
    return ByteTokenizer() if name == "byte" else Gpt2Tokenizer()


if __name__ == "__main__":
    with exit_on_error():
        main()
