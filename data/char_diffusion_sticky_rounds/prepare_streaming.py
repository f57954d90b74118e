"""Fill data/char_diffusion_sticky_rounds/queue with rows that are masked in several rounds, until Ctrl-C.

python data/char_diffusion_sticky_rounds/prepare_streaming.py config/x.py [--key=value ...] [--once | --files=N]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from config.stream_options import read_options
from core.errors import exit_on_error
from data.prepare_scripts import output_folder
from data.streaming.char_text import CharText
from data.streaming.producer import Producer
from data.streaming.sticky_rounds import StickyRoundsProvider


def main(argv: Sequence[str] | None = None, own: Path | None = None) -> None:
    """Prepare the text if needed, and fill the queue."""
    options = read_options(sys.argv[1:] if argv is None else argv)
    folder = options.target_folder(own or output_folder(__file__))
    provider = StickyRoundsProvider(
        CharText.prepared(options.source(folder), options.cls_token_id),
        options.batch_size,
        options.block_size,
        p1_probability=options.sticky_p1_probability,
        p2_probability=options.sticky_p2_probability,
        max_rounds=options.max_rounds,
        line_aligned=options.enable_line_aligned_sequences,
        ignore_index=options.ignore_index,
    )
    Producer(folder, provider, **options.producer()).run(options.files, options.once)


if __name__ == "__main__":
    with exit_on_error():
        main()
