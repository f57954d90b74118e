"""
Draw pictures of what the model of a run folder has learnt.

    python -m tools.objective_report out-unmasking
    python -m tools.objective_report out-scorer --to docs/images

    filling.png   unmasking:          a line of the validation text whose masked tokens are filled step by step
    scatter.png   sequence scoring:   scores of the validation texts and their true scores
    timeline.png  runs with several stages: the losses, and where each stage began
"""

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import core
from config.options import Options
from core.commands import argument_parser
from core.errors import ConfigError, exit_on_error
from core.files import path_argument
from data.masked_text import MaskedText
from data.masking import sticky_mask
from data.private_rng import generator
from data.stages import create_stage_objects
from extras.objectives.sequence_scoring import ScoreMeter
from extras.sampling.unmask_sampler import UnmaskSampler, masked_shares
from model import GPT, GPTConfig
from tools.masking_report import find_decode
from tools.metrics import is_number, read_records
from tools.objective_pictures import (
    FILLED,
    GIVEN,
    MASKED,
    NEW,
    RIGHT,
    WRONG,
    Cell,
    Evaluation,
    draw_filling,
    draw_scatter,
    draw_timeline,
)
from tools.output import refuse_unwritable
from wiring.data import open_data
from wiring.objective import make_objective
from wiring.saved_options import read_saved

SHORTEST, LONGEST = 30, 72  # tokens of the line to fill
MASKING = (0.5, 0.2, 0.2)  # masked share, p1 and p2 of `sticky_mask`
STEPS = 6


class Run:
    """The options, the data, and the model in evaluation mode, of a run's newest good checkpoint."""

    def __init__(self, out_dir: Path, runtime: core.Runtime) -> None:
        path = core.CheckpointManager(out_dir).load(prefer_linked=True).path
        checkpoint = core.load_checkpoint(path)
        self.out_dir = out_dir
        self.options = read_saved(Options, checkpoint.get("config") or {}, path)
        self.data = open_data(self.options, runtime)
        self.runtime = runtime
        self.initializer = core.ModelInitializer(GPT, GPTConfig, runtime.device, print)
        self.model = self.initializer.resume_model_from_checkpoint(checkpoint, checkpoint["model_args"]).model.eval()
        self.device = runtime.device


@torch.no_grad()
def score(run: Run) -> tuple[list[float], list[float], dict[str, float]]:
    """Return true scores and scores of all texts that the run's evaluations use, and the metrics of these scores."""
    detector, meter = core.InstabilityDetector(), ScoreMeter()
    objective = make_objective(run.options, run.runtime, run.data, run.initializer, detector).objective
    for _ in range(run.options.eval_iters):
        batch = run.data.eval_draw("val")
        meter.add(batch, objective(run.model, batch, train=False).details)
    return meter.targets, meter.scores, meter.result()


def fill(run: Run, seed: int) -> list[tuple[str, list[Cell]]]:
    """Return the states of a line of the validation text while its masked tokens are filled, then the original."""
    data, decode, vocabulary = run.data.batches, find_decode(run.data), run.data.vocabulary
    assert vocabulary is not None
    draw = generator(seed)
    tokens = data.windows["val"].draw(1, draw)[0][0]  # (T,)
    begin, end = find_line(tokens.tolist(), data.newline_id)
    hidden = torch.zeros_like(tokens, dtype=torch.bool)
    hidden[begin:end] = sticky_mask(tokens[None, begin:end], *MASKING, draw)[0]
    mask_id = vocabulary.mask
    start = tokens.masked_fill(hidden, mask_id)
    sampler = UnmaskSampler(run.model, vocabulary.text, mask_id, masked_shares("linear", STEPS), top_k=1,
                            order="confidence", generator=torch.Generator(run.device).manual_seed(seed))  # fmt: skip
    states = [start, *(state[0].cpu() for state in sampler.states(start.to(run.device)))]
    line = slice(begin, end)
    return filling_rows(
        [state[line].tolist() for state in states],
        tokens[line].tolist(),
        mask_id,
        lambda i: decode(i).replace("\n", "↵"),
    )


def find_line(tokens: Sequence[int], newline_id: int | None) -> tuple[int, int]:
    """Return begin and end of the first complete line of a suitable length; without one, of the middle of the text."""
    breaks = [position for position, token in enumerate(tokens) if token == newline_id]
    for before, after in pairwise(breaks):
        if SHORTEST <= after - before - 1 <= LONGEST:
            return before + 1, after
    length = min(LONGEST, len(tokens))
    return (len(tokens) - length) // 2, (len(tokens) + length) // 2


def filling_rows(
    states: Sequence[Sequence[int]], original: Sequence[int], mask_id: int, decode: Callable[[int], str]
) -> list[tuple[str, list[Cell]]]:
    """Return the rows for `draw_filling`: every state of the text, with new tokens marked, and the original."""
    first, rows = states[0], []
    for number, state in enumerate(states):
        cells = []
        for position, token in enumerate(state):
            if token == mask_id:
                cells.append(Cell(decode(original[position]), MASKED))
                continue
            is_old = number == 0 or states[number - 1][position] == token
            cells.append(Cell(decode(token), GIVEN if first[position] != mask_id else FILLED if is_old else NEW))
        rows.append((f"step {number}" if number else "masked", cells))
    columns = zip(first, states[-1], original, strict=True)
    kinds = [GIVEN if start != mask_id else RIGHT if last == token else WRONG for start, last, token in columns]
    rows.append(("original", [Cell(decode(token), kind) for token, kind in zip(original, kinds, strict=True)]))
    return rows


def read_timeline(out_dir: Path) -> tuple[list[Evaluation], list[tuple[int, int]]]:
    """Return the evaluations that a run logged, and iteration and number of every stage after the first.

    Records without a number are skipped, such as evaluations with a non-finite loss; of two evaluations in the same
    iteration the later one counts.
    """
    records = read_records(out_dir)
    evaluations = {
        record["iter"]: Evaluation(record["iter"], record["train/loss"], record["val/loss"], _stage_losses(record))
        for record in records
        if record.get("event") == "eval" and _has_numbers(record, "iter", "train/loss", "val/loss")
    }
    stages = {
        record["stage"]: record["iter"]
        for record in records
        if record.get("event") == "stage" and _has_numbers(record, "iter", "stage")
    }
    changes = sorted((iter_num, stage) for stage, iter_num in stages.items())
    return [evaluation for _, evaluation in sorted(evaluations.items())], changes


def _stage_losses(record: dict[str, Any]) -> dict[int, float]:
    numbers = {key.removeprefix("val/stage_").removesuffix("_loss"): loss for key, loss in record.items()}
    return {int(number): loss for number, loss in numbers.items() if number.isdecimal() and is_number(loss)}


def _has_numbers(record: dict[str, Any], *keys: str) -> bool:
    return all(is_number(record.get(key)) for key in keys)


def report(out_dir: Path, to: Path, device: str, seed: int) -> list[Path]:
    """Draw the pictures for this kind of run and return their files. Raises ConfigError if there are none."""
    with core.Runtime(device=device, seed=seed) as runtime:
        run = Run(out_dir, runtime)
        kind, stages = run.options.training_type, create_stage_objects(run.options.unmasking_stages)
        pictures: dict[str, Callable[[Path], None]] = {}
        if kind == "unmasking" and isinstance(run.data.batches, MaskedText):  # not a queue: it holds no text
            pictures["filling.png"] = functools.partial(draw_filling, fill(run, seed))
        if kind == "sequence_scoring":
            pictures["scatter.png"] = functools.partial(draw_scatter, *score(run))
        evaluations, changes = read_timeline(out_dir) if len(stages) > 1 else ([], [])
        if changes and evaluations:
            names = [stage.describe() for stage in stages]
            pictures["timeline.png"] = functools.partial(draw_timeline, evaluations, changes, names)
    if not pictures:
        raise ConfigError(f"no picture for {out_dir}: it is a {kind} run with one stage")
    with refuse_unwritable("--to", to):
        to.mkdir(parents=True, exist_ok=True)
        for name, draw in pictures.items():
            draw(to / name)
    return [to / name for name in pictures]


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the run folder given on the command line."""
    parser = argument_parser("tools/objective_report.py", __doc__)
    parser.add_argument("out_dir", type=path_argument, help="run folder")
    parser.add_argument("--to", type=path_argument, help="folder for the pictures; default: the run folder")
    parser.add_argument("--device", default="cpu", help="device of the model")
    parser.add_argument("--seed", type=int, default=1337, help="chooses the line of filling.png and what is masked")
    chosen = parser.parse_args(argv)
    for file in report(chosen.out_dir, chosen.to or chosen.out_dir, chosen.device, chosen.seed):
        print(f"wrote {file}")


if __name__ == "__main__":
    with exit_on_error():
        main()
