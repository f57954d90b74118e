"""
Train the CPU recipe of each objective and compare its metrics with baselines that need no training.

    python -m tools.recipes                       all recipes, into out-recipe-*
    python -m tools.recipes --only unmasking      one recipe; sequence_scoring needs the model of unmasking
    python -m tools.recipes --max_iters=50        a short trial, which does not reach the margins

A recipe states by which margins it must be better than its baselines. Exit status 1 if a margin is missed.
"""

import contextlib
import io
import math
import os
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import core
import train
from config.options import Options
from configurator import configure
from core.commands import argument_parser, command
from core.errors import ConfigError, DataError, exit_on_error
from tools.metrics import read_records
from wiring.data import open_data

CONFIG = Path(__file__).resolve().parents[1] / "config"
RECIPES = ("unmasking", "token_classification", "sequence_scoring")


class Comparison(NamedTuple):
    """A metric of a recipe, the metric of its baseline, and the margin by which the recipe must be better.

    is_higher_better: the metric grows with the quality of the model
    """

    name: str
    got: float
    baseline: float
    margin: float
    is_higher_better: bool

    @property
    def is_reached(self) -> bool:
        """Whether the recipe is better than its baseline by the margin; False if the metric is NaN."""
        better = self.got - self.baseline if self.is_higher_better else self.baseline - self.got
        return better >= self.margin

    def __str__(self) -> str:
        """Return a line of the table."""
        sign = "+" if self.is_higher_better else "-"
        wanted = f"{self.baseline:8.4f} {sign} {self.margin:.2f}"
        return f"{self.name:44} {self.got:8.4f}   {wanted:18} {'reached' if self.is_reached else 'MISSED'}"


def run(name: str, overrides: Sequence[str] = (), quiet: bool = True) -> list[Comparison]:
    """Train one recipe and return its comparisons. overrides: `--key=value` for `train.py`, such as `--out_dir=x`"""
    preset = str(CONFIG / f"recipe_{name}.py")
    argv = [preset, *overrides]
    with contextlib.redirect_stdout(io.StringIO() if quiet else sys.stdout):
        options = configure(Options, argv)
        train.main(argv)
    return compare(options, last_evaluation(options.out_dir), margins(preset))


def margins(preset: str) -> dict[str, float]:
    """Return the margins that a preset states, in variables whose names begin with `margin_`."""
    return {name: value for name, value in runpy.run_path(preset).items() if name.startswith("margin_")}


def last_evaluation(out_dir: str) -> dict[str, Any]:
    """Return the last evaluation that a run logged."""
    evaluations = [record for record in read_records(Path(out_dir)) if record["event"] == "eval"]
    if not evaluations:
        raise DataError(f"no evaluation in {out_dir}: lower eval_interval")
    return evaluations[-1]


def compare(options: Options, measured: dict[str, Any], wanted: dict[str, float]) -> list[Comparison]:
    """Return the metrics of a trained recipe compared with those of its baselines.

    measured: record of the last evaluation
    wanted:   the margins
    """
    if options.training_type == "token_classification":
        f1, majority = measured["val/f1"], measured["val/majority_f1"]
        return [Comparison("F1: the majority class", f1, majority, wanted["margin_f1"], True)]
    if options.training_type == "sequence_scoring":
        error = measured["val/mse_ratio"]
        return [
            Comparison("MSE, of the constant score's", error, 1.0, wanted["margin_mse_ratio"], False),
            Comparison("Pearson: the constant score", measured["val/correlation"], 0.0, wanted["margin_pearson"], True),
        ]
    loss, (unigram, bigram) = measured["val/loss"], baselines(options)
    return [
        Comparison("nats per gap: unigrams", loss, unigram, wanted["margin_unigram"], False),
        Comparison("nats per gap: bigrams of the left neighbour", loss, bigram, wanted["margin_bigram"], False),
    ]


def baselines(options: Options) -> tuple[float, float]:
    """Return the losses of unigram and bigram statistics on the validation batches that the model is evaluated on.

    The bigrams use the true left neighbour even if that token is masked, too.
    """
    with core.Runtime(**options.pick("device", "dtype", "backend", "seed", "cpu_autocast")) as runtime:
        data = open_data(options, runtime)
        assert data.vocabulary is not None
        size = data.vocabulary.text
        batches = [data.eval_draw("val") for _ in range(options.eval_iters)]
    unigrams, bigrams = count_ngrams(data.source.files["train"].map().astype(np.int64), size)
    losses = [masked_losses(batch["input"].cpu(), batch["target"].cpu(), unigrams, bigrams) for batch in batches]
    one, two = zip(*losses, strict=True)
    return sum(one) / len(one), sum(two) / len(two)


def count_ngrams(tokens: np.ndarray, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities of single tokens (V,) and of a token given its left neighbour (V, V).

    One is added to every count.
    """
    ones = np.bincount(tokens, minlength=vocab_size) + 1.0
    pairs = np.bincount(tokens[:-1] * vocab_size + tokens[1:], minlength=vocab_size**2).reshape(vocab_size, -1) + 1.0
    return torch.tensor(np.log(ones / ones.sum())), torch.tensor(np.log(pairs / pairs.sum(axis=1, keepdims=True)))


def masked_losses(
    inputs: torch.Tensor, targets: torch.Tensor, unigrams: torch.Tensor, bigrams: torch.Tensor
) -> tuple[float, float]:
    """Return the mean loss of each baseline over the masked positions, where targets (B, T) are 0 or more."""
    masked = targets >= 0
    text = targets.where(masked, inputs)
    after = torch.cat([unigrams[text[:, :1]], bigrams[text[:, :-1], text[:, 1:]]], dim=1)  # the first has no neighbour
    return -unigrams[text][masked].mean().item(), -after[masked].mean().item()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the recipes of the command line, print the table, and return the exit status."""
    parser = argument_parser("tools/recipes.py", __doc__)
    parser.add_argument("--only", choices=RECIPES, help="train only this recipe")
    parser.add_argument("--verbose", action="store_true", help="show the output of the runs")
    chosen, overrides = parser.parse_known_args(argv)
    if stray := [argument for argument in overrides if not argument.startswith("--")]:
        raise ConfigError(f"{stray[0]}: wanted --only, --verbose, or options of train.py as --key=value")
    if not os.path.exists("data/python_stdlib/train.bin"):
        raise DataError(f"no data/python_stdlib/train.bin: run `{command('data/python_stdlib/prepare.py')}` first")
    lines, status = [], 0
    for name in [chosen.only] if chosen.only else RECIPES:
        print(f"training {name} ...", file=sys.stderr, flush=True)
        start = time.monotonic()
        for comparison in run(name, overrides, quiet=not chosen.verbose):
            lines.append(f"{name:22} {comparison} {time.monotonic() - start:6.0f} s")
            status |= not comparison.is_reached or not math.isfinite(comparison.got)
    print(f"{'recipe':22} {'figure: baseline':44} {'got':>8}   {'wanted':18}")
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    with exit_on_error():
        sys.exit(main())
