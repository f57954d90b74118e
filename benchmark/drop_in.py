"""
Exchange files and checkpoints with a nanoGPT checkout in both directions, and compare the losses and sampled texts.

    python -m benchmark.drop_in --legacy ~/nanoGPT

Rows: nanoGPT's train.py and sample.py with our configurator.py and model.py; its model.py in place of ours, under our
train.py; our checkpoints in its sample.py and its train.py; its checkpoints in our sample.py.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmark.compare_legacy import ROOT, TINY, Processes, Side, differences, flags, make_data
from benchmark.data_sets import CHARS_65, write_data_set

MAX_ITERS = 6
OURS = ("core", "extras", "loss_modifiers", "wiring", "config", "model.py", "configurator.py", "train.py", "sample.py")
RUN: dict[str, Any] = {
    **TINY, "dropout": 0.2, "gradient_accumulation_steps": 2, "out_dir": "out", "eval_interval": 3,
    "max_iters": MAX_ITERS,
}  # fmt: skip
SAMPLE = {"out_dir": "out", "device": "cpu", "dtype": "float32", "num_samples": 2, "max_new_tokens": 60, "start": "a"}


def mixed_tree(folder: Path, legacy: Path, replaced: tuple[str, ...]) -> Path:
    """Return a folder with a copy of our program in which some files are replaced by nanoGPT's."""
    folder.mkdir()
    for name in OURS:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    for source in (ROOT / "data", ROOT / "data" / "streaming"):
        (folder / source.relative_to(ROOT)).mkdir()
        for path in source.glob("*.py"):
            shutil.copy(path, folder / path.relative_to(ROOT))
    for name in replaced:
        shutil.copy(legacy / name, folder / name)
    return folder


def run_in(tree: Path, script: str, data: Path, arguments: list[str]) -> Side:
    """Copy the data sets into a tree, run one of its scripts there, and return the side with the output."""
    for data_set in data.iterdir():
        shutil.copytree(data_set, tree / "data" / data_set.name, dirs_exist_ok=True)
    side = Side(tree / script, tree, Processes())
    side.run(arguments)
    return side


def rows(legacy: Path, folder: Path, data: Path) -> dict[str, bool]:
    """Return whether the results are equal, by name of the exchange."""
    theirs = Side.in_new_folder(legacy / "train.py", folder / "theirs", data, Processes())
    ours = Side.in_new_folder(ROOT / "train.py", folder / "ours", data, Processes())
    theirs.run(flags(RUN))
    ours.run(flags(RUN))
    equal = {}

    dropped = mixed_tree(folder / "dropped", legacy, ("train.py", "sample.py"))
    equal["nanoGPT's train.py on our configurator.py and model.py"] = not differences(
        theirs, run_in(dropped, "train.py", data, flags(RUN))
    )
    fork = mixed_tree(folder / "fork", legacy, ("model.py",))
    equal["nanoGPT's model.py under our train.py"] = not differences(
        theirs, run_in(fork, "train.py", data, flags(RUN)), final=MAX_ITERS + 1
    )

    # sample from each checkpoint with both programs, and with nanoGPT's sample.py in our tree
    texts = {}
    for name, origin in (("ours", ours), ("theirs", theirs)):
        for program, script in (("our", ROOT / "sample.py"), ("nanoGPT's", legacy / "sample.py")):
            side = Side.in_new_folder(script, folder / f"sample-{name}-{program[:3]}", data, Processes())
            shutil.copytree(origin.folder / "out", side.folder / "out")
            side.run(flags(SAMPLE))
            texts[name, program] = side.output
    equal["our checkpoint in nanoGPT's sample.py: same text as with ours"] = (
        texts["ours", "our"] == texts["ours", "nanoGPT's"]
    )
    equal["nanoGPT's checkpoint in our sample.py: same text as with its own"] = (
        texts["theirs", "our"] == texts["theirs", "nanoGPT's"]
    )
    equal["nanoGPT's sample.py on our configurator.py and model.py"] = (
        run_in(dropped, "sample.py", data, flags(SAMPLE)).output == texts["theirs", "our"]
    )

    # resume our checkpoint with both programs: only ckpt.pt, because ours would resume from a newer one next to it
    checkpoint = shutil.copy(ours.folder / "out" / "ckpt.pt", folder)
    for side in (theirs, ours):
        shutil.rmtree(side.folder / "out")
        (side.folder / "out").mkdir()
        shutil.copy(checkpoint, side.folder / "out")
    more = [*flags(RUN), "--init_from=resume", "--max_iters=9"]
    theirs.run(more)
    ours.run([*more, "--resume_rng=reseed"])
    equal["our checkpoint continued by nanoGPT's train.py and by ours"] = not differences(theirs, ours, final=10)
    return equal


def main() -> int:
    """Run every exchange, print one line for each, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legacy", type=Path, required=True, help="a nanoGPT checkout")
    legacy = parser.parse_args().legacy.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder / "data", {})
        write_data_set(data / "tiny", {}, CHARS_65)  # sampling needs the texts of the tokens
        equal = rows(legacy, folder, data)
    for name, is_equal in equal.items():
        print(f"{'equal' if is_equal else 'DIFFERENT':10} {name}")
    return 0 if all(equal.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
