"""
Write text with a trained model: a checkpoint of ours or of nanoGPT's, or OpenAI's GPT-2.

    python sample.py --out_dir=out-quickstart
    python sample.py --out_dir=out-quickstart --start="def " --num_samples=3 --max_new_tokens=200
    python sample.py --init_from=gpt2-xl --start=FILE:prompt.txt

The task that a checkpoint was trained for decides the answer: an unmasking model fills masks, a token classifier labels
the prompt's tokens, and a sequence scorer scores the prompt, or each line of a file.

    python sample.py --out_dir=out-unmasking --start="To be _____ or not" --mask_char=_
    python sample.py --out_dir=out-unmasking --judge=out-scorer --judge_candidates=4
    python sample.py --out_dir=out-classifier --start=FILE:page.txt --show_probabilities=True
    python sample.py --out_dir=out-scorer --start=FILE:lines.txt
"""

import sys
from collections.abc import Sequence

import core
from config.options import SampleOptions
from configurator import configure
from wiring.sampling import load_trained, make_answer, read_prompt


def main(argv: Sequence[str]) -> None:
    """Print samples, labels or scores, as the command line asks for them."""
    options = configure(SampleOptions, argv)
    if options.init_from == "scratch":
        raise core.ConfigError(
            "init_from=scratch has no trained model: wanted resume, a GPT-2's name, or the folder of one"
        )
    prompt = read_prompt(options.start)
    with core.Runtime(**options.pick("device", "dtype", "seed", "cpu_autocast")) as run:
        trained = load_trained(options, run)
        with run.autocast:
            answer = make_answer(options, run, trained, prompt)
            answer()


if __name__ == "__main__":
    with core.exit_on_error():
        main(sys.argv[1:])
