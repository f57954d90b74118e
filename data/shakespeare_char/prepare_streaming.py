"""Fill data/shakespeare_char/queue with batches for next-token prediction, until Ctrl-C.

python data/shakespeare_char/prepare_streaming.py config/x.py [--key=value ...] [--once | --files=N]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from config.stream_options import read_options
from core.errors import exit_on_error
from data.prepare_scripts import output_folder
from data.streaming.char_text import CharText
from data.streaming.language_model import LanguageModelProvider
from data.streaming.producer import Producer


def main(argv: Sequence[str] | None = None, own: Path | None = None) -> None:
    """Prepare the text if needed, and fill the queue."""
    options = read_options(sys.argv[1:] if argv is None else argv)
    folder = options.target_folder(own or output_folder(__file__))
    text = CharText.prepared(folder if options.source_data_dir is None else options.source(folder))
    provider = LanguageModelProvider(text.folder, **options.pick("batch_size", "block_size", "target_size"))
    Producer(folder, provider, **options.producer()).run(options.files, options.once)


if __name__ == "__main__":
    with exit_on_error():
        main()
