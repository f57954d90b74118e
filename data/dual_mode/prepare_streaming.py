"""Fill data/dual_mode/queue with batches for unmasking and for sequence scoring, until Ctrl-C.

python data/dual_mode/prepare_streaming.py config/x.py --mlm_checkpoint_path=out/ckpt.pt [--once | --files=N]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from config.stream_options import read_options
from core.errors import exit_on_error
from data.char_diffusion import prepare_streaming as char_diffusion
from data.prepare_scripts import output_folder
from data.sequence_scorer import prepare_streaming as sequence_scorer
from data.streaming.char_text import CharText
from data.streaming.dual_mode import DualModeProvider
from data.streaming.producer import Producer


def main(argv: Sequence[str] | None = None, own: Path | None = None) -> None:
    """Prepare the text if needed, and fill the queue."""
    options = read_options(sys.argv[1:] if argv is None else argv)
    folder = options.target_folder(own or output_folder(__file__))
    text = CharText.prepared(options.source(folder), options.cls_token_id)
    providers = {
        "language_model": char_diffusion.provider(options, text),
        "sequence_scorer": sequence_scorer.provider(options, text),
    }
    provider = DualModeProvider(providers, options.mode_distribution, options.alternation_frequency)
    Producer(folder, provider, **options.producer()).run(options.files, options.once)


if __name__ == "__main__":
    with exit_on_error():
        main()
