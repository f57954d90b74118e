"""Prepare tiny Shakespeare in GPT-2 tokens: the train.bin and val.bin of nanoGPT."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core.commands import argument_parser
from core.errors import exit_on_error
from core.files import path_argument
from data.corpus import tiny_shakespeare, write_text
from data.prepare_scripts import output_folder
from data.tokenizers import Gpt2Tokenizer


def main(argv: Sequence[str] | None = None) -> None:
    """Read or download the text and write the data set."""
    parser = argument_parser("data/shakespeare/prepare.py", __doc__)
    parser.add_argument("--input", type=path_argument, metavar="FILE", help="text file to use instead of the download")
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", default=output_folder(__file__), help="output folder"
    )
    args = parser.parse_args(argv)

    tokenizer = Gpt2Tokenizer()
    write_text(args.out, tiny_shakespeare(args.out, args.input), tokenizer)


if __name__ == "__main__":
    with exit_on_error():
        main()
