"""Fill data/char_diffusion/queue with masked rows for unmasking, until Ctrl-C.

python data/char_diffusion/prepare_streaming.py config/x.py [--key=value ...] [--once | --files=N]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from config.stream_options import StreamOptions, read_options
from core.errors import exit_on_error
from data.prepare_scripts import output_folder
from data.streaming.char_text import CharText
from data.streaming.masked import MaskedProvider, stages_by_split
from data.streaming.producer import Producer


def provider(options: StreamOptions, text: CharText) -> MaskedProvider:
    """Return the provider of masked rows."""
    stages = stages_by_split(
        **options.pick("use_all_stages_for_training", "unmasking_stages", "validation_stages", "block_size"),
        has_newline=text.newline_id is not None,
    )
    return MaskedProvider(
        text,
        options.batch_size,
        options.block_size,
        stages,
        mask_probability=options.mask_probability,
        line_aligned=options.enable_line_aligned_sequences,
        ignore_index=options.ignore_index,
    )


def main(argv: Sequence[str] | None = None, own: Path | None = None) -> None:
    """Prepare the text if needed, and fill the queue."""
    options = read_options(sys.argv[1:] if argv is None else argv)
    folder = options.target_folder(own or output_folder(__file__))
    source = folder if options.source_data_dir is None else options.source(folder)
    text = CharText.prepared(source, options.cls_token_id)
    Producer(folder, provider(options, text), **options.producer()).run(options.files, options.once)


if __name__ == "__main__":
    with exit_on_error():
        main()
