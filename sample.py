"""
Write text with a trained model: a checkpoint of ours or of nanoGPT's, or OpenAI's GPT-2.

    python sample.py --out_dir=out-quickstart
    python sample.py --out_dir=out-quickstart --start="def " --num_samples=3 --max_new_tokens=200
    python sample.py --init_from=gpt2-xl --start=FILE:prompt.txt
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import core
from config.options import SampleOptions
from configurator import configure
from data.meta import read_meta
from data.tokenizers import Gpt2Tokenizer, Tokenizer, tokenizer_from_meta
from model import GPT, GPTConfig

SEPARATOR = "---------------"


def find_tokenizer(dataset: str | None) -> Tokenizer:
    """Return the tokenizer that a data set was prepared with; GPT-2's where nothing else is known."""
    path = os.path.join("data", dataset or "", "meta.pkl")
    if dataset is None or not os.path.exists(path):
        print("No meta.pkl found, assuming GPT-2 encodings...")
        return Gpt2Tokenizer()
    print(f"Loading meta from {path}...")
    return tokenizer_from_meta(read_meta(path))


def read_prompt(start: str) -> str:
    """Return the prompt, from a file where it says `FILE:path`."""
    if not start.startswith("FILE:"):
        return start
    try:
        return Path(start.removeprefix("FILE:")).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise core.ConfigError(f"--start={start}: the prompt cannot be read ({error})") from None


def main(argv: Sequence[str]) -> None:
    """Print samples, as the command line asks for them."""
    options = configure(SampleOptions, argv)
    if options.init_from == "scratch":
        raise core.ConfigError("init_from=scratch has nothing to say yet: wanted resume, a GPT-2's name, or its folder")
    prompt = read_prompt(options.start)
    with core.Runtime(**options.pick("device", "dtype", "seed", "cpu_autocast")) as run:
        initializer = core.ModelInitializer(GPT, GPTConfig, run.device)
        if options.init_from == "resume":
            checkpoint = core.load_checkpoint(core.CheckpointManager(options.out_dir).load(prefer_linked=True).path)
            model = initializer.resume_model_from_checkpoint(checkpoint, dict(checkpoint["model_args"]))
            tokenizer = find_tokenizer(checkpoint.get("config", {}).get("dataset"))
        else:
            model = initializer.load_pretrained(options.init_from, {"dropout": 0.0})
            tokenizer = find_tokenizer(None)
        model.eval()
        if options.compile and initializer.can_compile():
            model.compile()
        ids = torch.tensor(tokenizer.encode(prompt), dtype=torch.long, device=run.device)[None]  # (1, T)
        if not ids.numel():  # the model needs one position to continue
            raise core.ConfigError("--start is empty: give the model at least one character to continue")
        with run.autocast:
            for _ in range(options.num_samples):
                written = model.generate(ids, options.max_new_tokens, options.temperature, options.top_k)
                print(tokenizer.decode(written[0].tolist()), SEPARATOR, sep="\n", flush=True)


if __name__ == "__main__":
    with core.exit_on_error():
        main(sys.argv[1:])
