"""
Compare the preparation of a text file with tiktoken's own batches, on the same cores.

    python -m benchmark.text_preparation FILE [--megabytes 200] [--workers 2] [--rounds 5]

The file is repeated up to the size. In each round, in random order in one process:

batch    `encode_ordinary_batch` of the text, which is in memory in documents of 1 MB, to lists of ids in memory
prepare  the complete way from the file to train.bin and val.bin, without the loading of GPT-2's vocabulary

Then the memory of `data/text/prepare.py` on the same file, in a process of its own, and whether its ids are those of
the complete text.
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmark.compare_legacy import ROOT
from benchmark.timing import median_and_interval, seconds
from data.corpus import split_text
from data.preparation.prepare_texts import Settings, prepare_texts
from data.preparation.text_pieces import FileTexts
from data.tokenizers import Gpt2Tokenizer

DOCUMENT = 10**6  # characters
# VmHWM: the peak in kB of this program alone; the ru_maxrss of getrusage has that of the process that started it, too
WITH_PEAK = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from data.text.prepare import main
main()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
GPT2 = Settings("gpt2", vocab_size=0, train_bytes=0, val_fraction=0.1)


def repeat(source: Path, target: Path, size: int) -> str:
    """Write a text again and again to a file of about `size` characters; return the content."""
    text = source.read_text(encoding="utf-8")
    text = (text * (size // len(text) + 1))[:size]
    target.write_text(text, encoding="utf-8")
    return text


def time_ratios(path: Path, text: str, folder: Path, workers: int, rounds: int) -> list[float]:
    """Print the speed of both ways in each round; return the ratios of the speeds, ours divided by tiktoken's."""
    tokenizer, ratios = Gpt2Tokenizer(), []
    documents = [text[begin : begin + DOCUMENT] for begin in range(0, len(text), DOCUMENT)]
    ways: list[tuple[str, Callable[[], object]]] = [
        ("batch", partial(tokenizer.encode_ordinary_batch, documents, num_threads=workers)),
        ("prepare", partial(prepare_texts, FileTexts([path]), GPT2, folder, workers)),
    ]
    for _ in range(rounds):
        random.shuffle(ways)
        speeds = {name: len(text) / 1e6 / seconds(way) for name, way in ways}
        ratios.append(speeds["prepare"] / speeds["batch"])
        print(f"batch {speeds['batch']:.2f}, prepare {speeds['prepare']:.2f} million characters per second", flush=True)
    return ratios


def peak_memory(path: Path, folder: Path, workers: int) -> float:
    """Return the peak memory of the script in MB."""
    arguments = [str(path), "--tokenizer", "gpt2", "--out", str(folder), "--workers", str(workers)]
    script = [sys.executable, "-c", WITH_PEAK, str(ROOT), *arguments]
    done = subprocess.run(script, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 1000


def are_equal(text: str, folder: Path) -> bool:
    """Return whether the token files hold the ids of the complete training text and of the complete validation text."""
    encode = Gpt2Tokenizer().encode_ordinary
    parts = zip(("train", "val"), split_text(text), strict=True)
    return all(np.array_equal(np.fromfile(folder / f"{name}.bin", np.uint16), encode(part)) for name, part in parts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "text.txt"
        text = repeat(args.file, path, int(args.megabytes * 1e6))
        memory = peak_memory(path, folder / "own_process", args.workers)
        ratios = time_ratios(path, text, folder / "out", args.workers, args.rounds)
        print(f"speed of prepare divided by that of batch: {median_and_interval(ratios, digits=3)}")
        print(f"lowest and highest ratio: {min(ratios):.3f}, {max(ratios):.3f}; median {statistics.median(ratios):.3f}")
        print(f"peak memory of the script: {memory:.0f} MB")
        print(f"ids equal to those of the complete text: {are_equal(text, folder / 'out')}")


if __name__ == "__main__":
    main()
