"""
Exchange files and checkpoints with a nanoGPT checkout, every way round, and see the same numbers and texts come out.

    python -m benchmark.drop_in --legacy ~/nanoGPT

Rows: nanoGPT's train.py and sample.py in our tree, on our configurator.py and model.py; its model.py in place of ours,
under our train.py; our checkpoints in its sample.py and its train.py; its checkpoints in our sample.py.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmark.compare_legacy import ROOT, TINY, Processes, Side, differences, flags, make_data
from data.meta import write_meta

OURS = ("core", "extras", "loss_modifiers", "config", "model.py", "configurator.py", "train.py", "sample.py")
RUN = {**TINY, "dropout": 0.2, "gradient_accumulation_steps": 2, "out_dir": "out", "eval_interval": 3, "max_iters": 6}
SAMPLE = {"out_dir": "out", "device": "cpu", "dtype": "float32", "num_samples": 2, "max_new_tokens": 60, "start": "a"}


def mixed_tree(folder: Path, legacy: Path, replaced: tuple[str, ...]) -> Path:
    """Return a copy of our program with some of its files replaced by nanoGPT's."""
    folder.mkdir()
    for name in OURS:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, folder / name)
    (folder / "data").mkdir()
    for source in (ROOT / "data").glob("*.py"):
        shutil.copy(source, folder / "data")
    for name in replaced:
        shutil.copy(legacy / name, folder / name)
    return folder


def run_in(tree: Path, script: str, data: Path, arguments: list[str]) -> Side:
    """Run a script of a tree in that tree, with the data in place, and return what it left behind."""
    for name in data.iterdir():
        shutil.copytree(name, tree / "data" / name.name, dirs_exist_ok=True)
    side = Side(tree / script, tree, Processes())
    side.run(arguments)
    return side


def rows(legacy: Path, folder: Path, data: Path) -> dict[str, bool]:
    """Return the name of every exchange and whether it came out the same."""
    theirs = Side.in_new_folder(legacy / "train.py", folder / "theirs", data, Processes())
    ours = Side.in_new_folder(ROOT / "train.py", folder / "ours", data, Processes())
    theirs.run(flags(RUN))
    ours.run(flags(RUN))
    found = {}

    dropped = mixed_tree(folder / "dropped", legacy, ("train.py", "sample.py"))
    found["nanoGPT's train.py on our configurator.py and model.py"] = not differences(
        theirs, run_in(dropped, "train.py", data, flags(RUN))
    )
    fork = mixed_tree(folder / "fork", legacy, ("model.py",))
    found["nanoGPT's model.py under our train.py"] = not differences(
        theirs, run_in(fork, "train.py", data, flags(RUN)), final=RUN["max_iters"] + 1
    )

    # one checkpoint, sampled from by both; and by nanoGPT's sample.py in our tree
    texts = {}
    for name, origin in (("ours", ours), ("theirs", theirs)):
        for program, script in (("our", ROOT / "sample.py"), ("nanoGPT's", legacy / "sample.py")):
            side = Side.in_new_folder(script, folder / f"sample-{name}-{program[:3]}", data, Processes())
            shutil.copytree(origin.folder / "out", side.folder / "out")
            side.run(flags(SAMPLE))
            texts[name, program] = side.output
    found["our checkpoint in nanoGPT's sample.py: the text of ours"] = (
        texts["ours", "our"] == texts["ours", "nanoGPT's"]
    )
    found["nanoGPT's checkpoint in our sample.py: the text of its own"] = (
        texts["theirs", "our"] == texts["theirs", "nanoGPT's"]
    )
    found["nanoGPT's sample.py on our configurator.py and model.py"] = (
        run_in(dropped, "sample.py", data, flags(SAMPLE)).output == texts["theirs", "our"]
    )

    # our checkpoint, continued by both: ckpt.pt alone, as ours would go on from the newer one beside it
    checkpoint = shutil.copy(ours.folder / "out" / "ckpt.pt", folder)
    for side in (theirs, ours):
        shutil.rmtree(side.folder / "out")
        (side.folder / "out").mkdir()
        shutil.copy(checkpoint, side.folder / "out")
    more = [*flags(RUN), "--init_from=resume", "--max_iters=9"]
    theirs.run(more)
    ours.run([*more, "--resume_rng=reseed"])
    found["our checkpoint continued by nanoGPT's train.py and by ours"] = not differences(theirs, ours, final=10)
    return found


def main() -> int:
    """Run every exchange, print a line for each, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legacy", type=Path, required=True, help="a nanoGPT checkout")
    legacy = parser.parse_args().legacy.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder / "data", {})
        letters = "".join(chr(48 + i) for i in range(65))
        stoi, itos = {c: i for i, c in enumerate(letters)}, dict(enumerate(letters))
        write_meta(data / "tiny" / "meta.pkl", {"vocab_size": 65, "stoi": stoi, "itos": itos})
        found = rows(legacy, folder, data)
    for name, same in found.items():
        print(f"{'equal' if same else 'DIFFERENT':10} {name}")
    return 0 if all(found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
