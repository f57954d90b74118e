"""
Draw the loss curves of run folders into one picture.

    python -m tools.curve out-quickstart out-book --file curves.png
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.commands import argument_parser
from core.errors import DataError, exit_on_error
from core.files import path_argument
from tools.metrics import is_number, read_records
from tools.output import refuse_unwritable
from tools.pyplot import load_pyplot

Curve = tuple[list[int], list[float]]


def read_curves(folder: Path) -> dict[str, Curve]:
    """Return the iterations and losses that a run logged, by curve: step, train, val.

    Losses that are not finite are skipped, and records without a number. Raises DataError if no loss is left.
    """
    records = read_records(folder)
    curves: dict[str, Curve] = {}
    for name, event, key in (("step", "step", "loss"), ("train", "eval", "train/loss"), ("val", "eval", "val/loss")):
        chosen = [record for record in records if record.get("event") == event and is_number(record.get("iter"))]
        points: dict[Any, Any] = {record["iter"]: record.get(key) for record in chosen}
        finite = [(iteration, loss) for iteration, loss in sorted(points.items()) if is_number(loss)]
        curves[name] = [iteration for iteration, _ in finite], [loss for _, loss in finite]
    if not any(iterations for iterations, _ in curves.values()):
        raise DataError(f"{folder / 'metrics.jsonl'} has no losses: give the out_dir of a run that has logged some")
    return curves


def draw(folders: Sequence[Path], file: Path) -> None:
    """Draw the losses of runs into a picture file: logged steps (faint), evaluations on train (dashed) and val."""
    plt = load_pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for index, folder in enumerate(folders):
        curves, color = read_curves(folder), f"C{index}"
        axes.plot(*curves["step"], color=color, alpha=0.25, linewidth=0.8, label=f"{folder.name}: each logged step")
        axes.plot(*curves["train"], color=color, linestyle="--", label=f"{folder.name}: train")
        axes.plot(*curves["val"], color=color, marker="o", markersize=4, label=f"{folder.name}: validation")
    axes.set(xlabel="iteration", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    try:
        with refuse_unwritable("--file", file, ValueError):  # of an ending that matplotlib does not know
            figure.savefig(file, dpi=110)
    finally:
        plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the run folders given on the command line."""
    parser = argument_parser("tools/curve.py", __doc__)
    parser.add_argument("folders", nargs="+", type=path_argument, help="run folders")
    parser.add_argument("--file", type=path_argument, default=Path("curves.png"), help="picture file to write")
    chosen = parser.parse_args(argv)
    draw(chosen.folders, chosen.file)
    print(f"wrote {chosen.file}")


if __name__ == "__main__":
    with exit_on_error():
        main()
