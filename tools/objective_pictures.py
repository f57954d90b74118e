"""Pictures of what a model has learnt: a text filled step by step, scores and true values, losses of every stage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools.pyplot import load_pyplot

GIVEN, MASKED, NEW, FILLED = "given", "masked", "filled in this step", "filled before"
RIGHT, WRONG = "the model was right", "the model was wrong"
BACKGROUNDS = {MASKED: "#0072b2", NEW: "#f0e442", FILLED: "#fbf6c8", RIGHT: "#8fd6bb", WRONG: "#f2a679"}
CHAR_WIDTH, ROW_HEIGHT = 0.105, 0.27  # inches
DPI = 100


class Cell(NamedTuple):
    """One token of a picture: its text and its kind. Of a MASKED token only the width is drawn."""

    text: str
    kind: str


class Evaluation(NamedTuple):
    """The losses of one evaluation. stages: losses of the validation texts that each stage masked"""

    iter_num: int
    train: float
    val: float
    stages: Mapping[int, float]


def start_figure(width: float, height: float) -> tuple[Any, Any, Any]:
    """Return pyplot, a figure of the given size in inches, and its axes. Raises ConfigError without matplotlib."""
    plt = load_pyplot()
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    return plt, figure, axes


def save(figure: Any, file: Path) -> None:
    """Write a figure to a file and close it."""
    figure.savefig(file, dpi=DPI)
    load_pyplot().close(figure)


def draw_filling(rows: Sequence[tuple[str, Sequence[Cell]]], file: Path) -> None:
    """Draw the states of a text, one below the other.

    rows: label and cells of each state; the number of cells is the same in all states
    """
    save(filling_figure(rows), file)


def filling_figure(rows: Sequence[tuple[str, Sequence[Cell]]]) -> Any:
    """Return the figure that `draw_filling` writes."""
    widths = [max(len(cell.text) for cell in column) for column in zip(*(cells for _, cells in rows), strict=True)]
    total = sum(widths)
    width = 1.1 + CHAR_WIDTH * total
    columns = min(max(int(width / 1.7), 1), len(BACKGROUNDS))  # of the legend
    plt, figure, axes = start_figure(width, ROW_HEIGHT * len(rows) + 0.15 + 0.2 * -(-len(BACKGROUNDS) // columns))
    for number, (label, cells) in enumerate(rows):
        axes.text(-1, number, label, ha="right", va="center", fontsize=9)
        left = 0
        for cell, span in zip(cells, widths, strict=True):
            if color := BACKGROUNDS.get(cell.kind):
                axes.add_patch(plt.Rectangle((left, number - 0.42), span, 0.84, color=color, linewidth=0))
            ink = "#666" if cell.kind == GIVEN else "black"
            for position, char in enumerate("" if cell.kind == MASKED else cell.text):
                axes.text(left + position + 0.5, number, char, ha="center", va="center", color=ink,
                          family="monospace", fontsize=10)  # fmt: skip
            left += span
    axes.set(xlim=(-1, total), ylim=(len(rows) - 0.5, -0.5))
    axes.axis("off")
    patches = [plt.Rectangle((0, 0), 1, 1, color=color, label=kind) for kind, color in BACKGROUNDS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5)
    return figure


def draw_scatter(targets: Sequence[float], scores: Sequence[float], figures: Mapping[str, float], file: Path) -> None:
    """Draw a scorer's scores against the true scores, one point per text. figures: metrics of `ScoreMeter`"""
    save(scatter_figure(targets, scores, figures), file)


def scatter_figure(targets: Sequence[float], scores: Sequence[float], figures: Mapping[str, float]) -> Any:
    """Return the figure that `draw_scatter` writes."""
    _, figure, axes = start_figure(5.6, 4.6)
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", label="score = truth")
    mean = sum(targets) / len(targets)
    axes.axhline(mean, color="gray", linewidth=1, linestyle=":", label="always the mean (constant predictor)")
    for name, color, untouched in (("filled texts", "#0072b2", False), ("untouched texts", "#d55e00", True)):
        points = [pair for pair in zip(targets, scores, strict=True) if (pair[0] == 0) is untouched]
        if points:
            axes.scatter(*zip(*points, strict=True), s=12, alpha=0.45, color=color, linewidths=0, label=name)
    ratio, correlation = figures["val/mse_ratio"], figures["val/correlation"]
    axes.set_title(f"correlation {correlation:.2f}, error {ratio:.2f} of the constant predictor's", fontsize=10)
    axes.set(xlabel="share of the text that was masked and filled by a model", ylabel="score", xlim=(-0.03, 1.03))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8.5)
    return figure


def draw_timeline(
    evaluations: Sequence[Evaluation], changes: Sequence[tuple[int, int]], names: Sequence[str], file: Path
) -> None:
    """Draw the losses of a run and mark its stages.

    changes: iteration and number of every stage after the first
    names:   descriptions of all stages
    """
    save(timeline_figure(evaluations, changes, names), file)


def timeline_figure(evaluations: Sequence[Evaluation], changes: Sequence[tuple[int, int]], names: Sequence[str]) -> Any:
    """Return the figure that `draw_timeline` writes."""
    _, figure, axes = start_figure(8, 4.2)
    iterations = [evaluation.iter_num for evaluation in evaluations]
    begins = [(iterations[0], 0), *changes]
    ends = [iteration for iteration, _ in changes] + [iterations[-1]]
    for (begin, stage), end in zip(begins, ends, strict=True):
        axes.axvspan(begin, end, color=f"C{stage % 10}", alpha=0.12, linewidth=0)
        axes.annotate(f"stage {stage}", ((begin + end) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, 4),
                      textcoords="offset points", ha="center", fontsize=9, color=f"C{stage % 10}")  # fmt: skip
    for iteration, _ in changes:
        axes.axvline(iteration, color="black", linewidth=0.8, linestyle="--")
    for stage, name in enumerate(names):
        points = [(one.iter_num, one.stages[stage]) for one in evaluations if stage in one.stages]
        if points:
            axes.plot(*zip(*points, strict=True), color=f"C{stage % 10}", linewidth=1.2, label=f"stage {stage}: {name}")
    axes.plot(iterations, [one.val for one in evaluations], color="black", marker="o", markersize=3, label="all stages")
    axes.plot(iterations, [one.train for one in evaluations], color="gray", linestyle=":",
              label="training texts, of the stages begun")  # fmt: skip
    axes.set(xlabel="iteration", ylabel="loss (nats per masked token)")
    axes.margins(x=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8.5, title="validation loss by how the texts are masked", title_fontsize=8.5)
    return figure
