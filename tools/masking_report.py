"""
Show how the stages of a config mask text: masked shares, sizes of masked clusters, and examples in colour.

    python -m tools.masking_report config.py
    python -m tools.masking_report config.py --dataset=shakespeare_char --out masking-report

Accepts the arguments of train.py, too, and draws the batches that training and evaluation would draw. Prints a table
and one text of every stage, and writes masking.png and masking.html to a folder.
"""

import html
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from config.options import Options
from configurator import configure
from core import Runtime
from core.commands import argument_parser
from core.errors import ConfigError, DataError, exit_on_error
from core.files import path_argument
from data.meta import read_meta
from data.tokenizers import tokenizer_from_meta
from tools.masking_samples import (
    GIVEN,
    HIDDEN,
    KEPT,
    MASKED,
    PADDING,
    REPLACED,
    Rows,
    Sample,
    cluster_sizes,
    draw_samples,
    kind_shares,
    masked_ratios,
    open_all_stages,
)
from tools.output import refuse_unwritable
from tools.pyplot import load_pyplot
from wiring.data import RunData

LABELS = {HIDDEN: "mask token", REPLACED: "random token", KEPT: "the token itself"}
COLORS = {HIDDEN: "#0072b2", REPLACED: "#d55e00", KEPT: "#009e73"}  # for the colour-blind, too
CLASSES = {GIVEN: "given", HIDDEN: "hidden", REPLACED: "replaced", KEPT: "kept"}  # CSS classes of the page
ANSI = {HIDDEN: "\x1b[34m", REPLACED: "\x1b[1;31m", KEPT: "\x1b[1;32m"}
PLAIN = "\x1b[0m"
BLOCK = "░"  # shown for each character that a mask token hides
TERMINAL_TOKENS = 240  # of each text printed on the terminal
LINEAR = 40  # up to this size of the largest cluster, every size has its own bar

Decode = Callable[[int], str]
Piece = tuple[int, str, str]  # adjacent tokens of one kind: the kind, the text that the model sees, the original text


def table(samples: Sequence[Sample]) -> str:
    """Return a table of every stage's masked ratios and cluster sizes, as text."""
    lines: list[tuple[str, ...]] = [("stage", "target", "mean", "min", "max", "mean cluster", "largest")]
    for sample in samples:
        ratios, clusters = masked_ratios(sample.rows), cluster_sizes(sample.rows.mask)
        sizes = (f"{clusters.double().mean():.1f}", f"{clusters.max()}") if len(clusters) else ("-", "-")
        lines.append(
            (
                sample.title,
                sample.target,
                *(f"{value:.3f}" for value in (ratios.mean(), ratios.min(), ratios.max())),
                *sizes,
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = ([cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join([line[0].ljust(widths[0]), *row[1:]]) for line, row in zip(lines, cells, strict=True))


def find_decode(data: RunData) -> Decode:
    """Return a function that decodes one token id; without a tokenizer it returns the id as text."""
    path = data.source.meta_path
    try:
        meta = read_meta(path) if path.exists() else None
        if meta is not None and not {"stoi", "tokenizer"} & set(meta):
            raise DataError(f"{path} names no tokenizer")
        tokenizer = tokenizer_from_meta(meta)
    except DataError as error:
        print(f"texts are shown as token ids: {error}", file=sys.stderr)
        return lambda token: f"{token} "
    return lambda token: tokenizer.decode([token])


def pieces(rows: Rows, row: int, decode: Decode, max_tokens: int | None = None) -> list[Piece]:
    """Return the first `max_tokens` tokens of a text, with adjacent tokens of one kind joined; padding is skipped."""
    found: list[Piece] = []
    columns = (values[row, :max_tokens].tolist() for values in (rows.kinds, rows.seen, rows.answer))
    for kind, seen, answer in zip(*columns, strict=True):
        if kind == PADDING:
            continue
        original = decode(answer)
        shown = BLOCK * len(original) if kind == HIDDEN else decode(seen)
        if kind != GIVEN:
            shown, original = shown.replace("\n", "↵\n"), original.replace("\n", "↵\n")
        if found and found[-1][0] == kind:
            _, shown_before, original_before = found.pop()
            shown, original = shown_before + shown, original_before + original
        found.append((kind, shown, original))
    return found


def for_terminal(parts: Sequence[Piece], colored: bool) -> str:
    """Return the text that the model sees, with a terminal's colour codes if `colored`."""
    if not colored:
        return "".join(shown for _, shown, _ in parts)
    return "".join(f"{ANSI[kind]}{shown}{PLAIN}" if kind in ANSI else shown for kind, shown, _ in parts)


def page(samples: Sequence[Sample], decode: Decode, examples: int, title: str) -> str:
    """Return an HTML page with the table, the picture masking.png, and `examples` texts of every stage."""
    body = []
    for sample in samples:
        body.append(f"<h2>{html.escape(sample.title)}</h2>")
        ratios = masked_ratios(sample.rows)[:examples].tolist()
        body += [_example(pieces(sample.rows, row, decode), ratio) for row, ratio in enumerate(ratios)]
    styles = "\n".join(f".{CLASSES[kind]} {{ background: {color}; color: white }}" for kind, color in COLORS.items())
    legend = ", ".join(f'<span class="{CLASSES[kind]}">&nbsp;{LABELS[kind]}&nbsp;</span>' for kind in MASKED)
    values = {"title": title, "table": table(samples)}
    escaped = {name: html.escape(value) for name, value in values.items()}
    return PAGE.format(**escaped, styles=styles, legend=legend, body="\n".join(body))


def _example(parts: Sequence[Piece], ratio: float) -> str:
    """Return a text as HTML: the model's view next to the original."""
    sides = []
    for side, heading in ((1, "what the model sees"), (2, "the original")):
        spans = (f'<span class="{CLASSES[part[0]]}">{html.escape(str(part[side]))}</span>' for part in parts)
        sides.append(f"<div>{heading}<pre>{''.join(spans)}</pre></div>")
    return f"<p>{ratio:.0%} of this text is masked</p><div class=pair>{''.join(sides)}</div>"


PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font-family: sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; color: #222 }}
pre {{ background: #f6f6f6; padding: .8em; margin: .3em 0; line-height: 1.45; white-space: pre-wrap }}
pre {{ overflow-wrap: anywhere }}
img {{ max-width: 100% }}
h2 {{ font-size: 1.1em; margin-top: 2em; border-bottom: 1px solid #ccc }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: 1em; color: #666; font-size: .9em }}
.pair pre {{ color: #222 }}
{styles}
</style>
<h1>{title}</h1>
<p>The model predicts the original tokens at the masked positions. Its input there is the {legend}. A ratio is the
masked share of one text; a cluster is a run of adjacent masked positions.</p>
<pre>{table}</pre>
<img src="masking.png" alt="Masked shares, cluster sizes and kinds of masked tokens, one row for each stage">
{body}
</html>
"""


def draw(samples: Sequence[Sample], file: Path) -> None:
    """Draw a row for each stage: its masked ratios, its cluster sizes, and the kinds of its masked tokens."""
    plt = load_pyplot()
    figure, grid = plt.subplots(
        len(samples), 3, figsize=(9.5, 0.8 + 1.3 * len(samples)), squeeze=False, sharex="col", layout="constrained",
        gridspec_kw={"width_ratios": (3, 3, 2)},
    )  # fmt: skip
    clusters = [cluster_sizes(sample.rows.mask) for sample in samples]
    longest = max([int(sizes.max()) for sizes in clusters if len(sizes)], default=1)
    for row, sample, sizes in zip(grid, samples, clusters, strict=True):
        row[0].set_title(f"{sample.title}", loc="left", fontsize=9, fontweight="bold")
        ratios = masked_ratios(sample.rows)
        _draw_histogram(row[0], ratios.tolist(), [edge / 40 for edge in range(41)], "% of texts")
        row[0].axvline(float(ratios.mean()), color="black", linewidth=1, linestyle="--")
        _draw_histogram(row[1], sizes.tolist(), cluster_edges(longest), "% of clusters")
        _draw_kinds(row[2], sample)
    grid[-1][0].set_xlabel("masked share of a text (dashed: mean)")
    grid[-1][1].set_xlabel("adjacent masked tokens (a cluster)")
    if longest > LINEAR:
        ticks = [size for size in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if size <= longest]
        grid[-1][1].set_xscale("log")
        grid[-1][1].set_xticks(ticks, [str(size) for size in ticks])
        grid[-1][1].minorticks_off()
    grid[-1][2].set_xlabel("% of masked positions")
    figure.savefig(file, dpi=100)
    plt.close(figure)


def cluster_edges(longest: int) -> list[float]:
    """Return the bin edges of the histogram of cluster sizes: one bin per size, or bins that grow with the size."""
    if longest <= LINEAR:
        return [size - 0.5 for size in range(1, longest + 2)]
    sizes = {round(longest ** (step / LINEAR)) for step in range(LINEAR + 1)}
    return [size - 0.5 for size in sorted(sizes | {longest + 1})]


def _draw_histogram(axes: Any, values: list[float], edges: list[float], label: str) -> None:
    """Draw the percentage of the values in each bin."""
    axes.hist(values, bins=edges, weights=[100 / max(len(values), 1)] * len(values), color=COLORS[HIDDEN])
    axes.set_ylabel(label, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_kinds(axes: Any, sample: Sample) -> None:
    shares = kind_shares(sample.rows)
    bars = axes.barh([LABELS[kind] for kind in MASKED], [100 * shares[kind] for kind in MASKED])
    for bar, kind in zip(bars, MASKED, strict=True):
        bar.set_color(COLORS[kind])
    axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 115)
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.spines[["top", "right"]].set_visible(False)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the report on the options of the command line."""
    parser = argument_parser("tools/masking_report.py", __doc__)
    parser.add_argument("--out", type=path_argument, default=Path("masking-report"), help="folder for page and picture")
    parser.add_argument("--sequences", type=int, default=500, help="maximum number of texts to draw for each stage")
    parser.add_argument("--examples", type=int, default=3, help="texts of each stage to show on the page")
    chosen, rest = parser.parse_known_args(argv)
    if not rest:
        parser.error("no options given: give a config file, or options of train.py as --key=value")
    options = configure(Options, rest)
    if chosen.sequences < 1:
        raise ConfigError(f"--sequences={chosen.sequences}: wanted 1 or more")
    with Runtime(device="cpu", seed=options.seed) as runtime:
        data = open_all_stages(options, runtime)
        samples, decode = draw_samples(options, data, chosen.sequences), find_decode(data)
    print(table(samples))
    colored = sys.stdout.isatty()
    marks = [for_terminal([(kind, LABELS[kind], "")], colored) for kind in MASKED]
    print(f"\nA text of each stage as the model sees it, {BLOCK} the {', '.join(marks if colored else marks[:1])}")
    for sample in samples:
        shown = for_terminal(pieces(sample.rows, 0, decode, TERMINAL_TOKENS), colored)
        print(f"\n--- {sample.title}\n{shown}")
    title = f"How the stages of {' '.join(rest)} mask text"
    html_page = page(samples, decode, chosen.examples, title)
    with refuse_unwritable("--out", chosen.out):
        chosen.out.mkdir(parents=True, exist_ok=True)
        draw(samples, chosen.out / "masking.png")
        (chosen.out / "masking.html").write_text(html_page, encoding="utf-8")
    print(f"\nwrote {chosen.out / 'masking.html'} and {chosen.out / 'masking.png'}")


if __name__ == "__main__":
    with exit_on_error():
        main()
