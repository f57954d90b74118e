"""Prepare the source of Python's standard library by character: a real corpus without a download."""

import hashlib
import platform
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core.commands import argument_parser
from core.errors import DataError, exit_on_error
from core.files import path_argument
from data.corpus import write_text
from data.prepare_scripts import output_folder
from data.tokenizers import CharTokenizer

STDLIB = Path(sysconfig.get_path("stdlib"))
MAX_BYTES = 4_000_000
MAX_FILE_BYTES = 100_000  # a longer module could take up a quarter of the validation text
SKIPPED = {"test", "tests", "site-packages", "dist-packages", "__pycache__"}
SKIPPED |= {"encodings", "idlelib", "lib2to3", "pydoc_data"}


def main(argv: Sequence[str] | None = None) -> None:
    """Collect the source and write the data set, which depends on the version of Python."""
    parser = argument_parser("data/python_stdlib/prepare.py", __doc__)
    parser.add_argument("--input", type=path_argument, metavar="DIR", default=STDLIB, help="other Python source")
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", default=output_folder(__file__), help="output folder"
    )
    args = parser.parse_args(argv)

    text = collect_source(args.input)
    tokenizer = CharTokenizer.from_text(text)
    print(f"source of Python {platform.python_version()} in {args.input}", file=sys.stderr)
    print(f"length of dataset in characters: {len(text):,}")
    print(f"vocab size: {tokenizer.vocab_size:,}")
    write_text(args.out, text, tokenizer)


def collect_source(root: Path, max_bytes: int = MAX_BYTES) -> str:
    r"""Return complete ASCII modules, up to `max_bytes` in all, as one text; every line end becomes \n.

    The modules are sorted by the hashes of their paths, a fixed shuffle. In alphabetical order the limit would keep
    the first half of the alphabet, and the validation text, the last tenth, would be one or two packages that are
    unlike the training text.
    """
    modules, size = [], 0
    for path in sorted(source_files(root), key=lambda path: _shuffle_key(path.relative_to(root))):
        source = path.read_bytes()
        if not source.isascii() or len(source) > MAX_FILE_BYTES:
            continue
        if size + len(source) > max_bytes:
            break
        modules.append(source.decode("ascii").replace("\r\n", "\n").replace("\r", "\n"))
        size += len(source)
    if not modules:
        raise DataError(f"no Python source in {root}: give another folder with --input DIR")
    return "".join(modules)


def source_files(root: Path) -> list[Path]:
    """Return the library's modules, without tests, generated tables and installed packages."""
    return [
        path
        for path in root.rglob("*.py")
        if path.is_file()  # a distribution may have dangling links
        and not SKIPPED & set(path.relative_to(root).parts)
        and not path.name.startswith("_sysconfigdata")
    ]


def _shuffle_key(path: Path) -> bytes:
    return hashlib.sha256(path.as_posix().encode()).digest()


if __name__ == "__main__":
    with exit_on_error():
        main()
