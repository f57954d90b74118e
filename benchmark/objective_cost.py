"""
Measure the cost of loss modifiers and of masking.

    python -m benchmark.objective_cost [modifiers] [masking] [--threads N] [--rounds N]

modifiers  time ratio of updates with one modifier and without, in random order in one process; in unmasking, or in
           sequence scoring for the modifiers of scorers
masking    time to draw and mask a batch of (16, 1024) with each stage of the composition `complex`, and time of an
           update of its preset's model on this machine
"""

import argparse
import contextlib
import io
import os
import random
import runpy
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import core
import train
from benchmark.compare_legacy import ROOT
from benchmark.reliability_cost import write_data
from benchmark.timing import median_and_interval, seconds
from config.options import Options
from configurator import configure
from wiring.data import open_data

SMALL = [
    "--dataset=shakespeare_char", "--device=cpu", "--compile=False", "--n_layer=4", "--n_head=4", "--n_embd=128",
    "--block_size=128", "--batch_size=16", "--gradient_accumulation_steps=1", "--position_encoding=rotary",
    "--eval_iters=1", "--mask_probability=0.3", "--max_iters=100",
]  # fmt: skip
ENABLED = "--loss_modifiers_enabled=True"
TOKENS = {
    "TargetSmoothing": [ENABLED, "--target_smoothing_enabled=True"],
    "LabelSmoothing": ["--uncertainty_factor=0.1"],
    "ZLoss": ["--z_loss_weight=1e-4"],
    "Entropy": [ENABLED, "--entropy_modifier_enabled=True"],
    "EntropyPenalty": ["--enable_entropy_penalty=True", "--entropy_penalty_start_iter=0"],
    "MaskRatioWeight": ["--weight_loss_by_mask_ratio=True"],
    "JudgeWeight": [ENABLED, "--judge_weight_modifier_enabled=True", "--judge_weight_checkpoint=judge"],
    "JudgeFactor": ["--enable_judge_model=True", "--judge_model_checkpoint=judge"],
}
SCORES = {
    "SequenceScorerVariance": [ENABLED, "--seq_scorer_log_abs_rel_err=False", "--sequence_variance_enabled=True"],
    "SequenceScorerCorrelation": [ENABLED, "--seq_scorer_log_abs_rel_err=False", "--sequence_correlation_enabled=True"],
    "MetricsCollector": [ENABLED],
}
WARMUP = 3  # first pairs, not counted
SCORING = ["--training_type=sequence_scoring", "--unmasking_model_checkpoint=filler"]


def quiet_main(arguments: list[str]) -> None:
    """Train without printing."""
    with contextlib.redirect_stdout(io.StringIO()):
        train.main(arguments)


def make_step(arguments: list[str]) -> tuple[core.TrainingStep, Any]:
    """Return the training step of a run and its loss modifiers, without printing."""
    with contextlib.redirect_stdout(io.StringIO()):
        options = configure(Options, arguments)
        runtime = core.Runtime(device="cpu").__enter__()
        trainer = train.build(options, runtime, core.Preemption())
    modifiers = getattr(trainer.step.objective, "modifiers", None)
    if modifiers is not None:
        modifiers.iter_num = 100  # the end of all schedules
    return trainer.step, modifiers


def compare_modifiers(rounds: int) -> None:
    """Print the time ratio of updates with and without each modifier."""
    quiet_main([*SMALL, "--training_type=unmasking", "--max_iters=1", "--eval_interval=1", "--out_dir=filler"])
    quiet_main([*SMALL, *SCORING, "--max_iters=1", "--eval_interval=1", "--out_dir=judge"])
    for base, table in ((["--training_type=unmasking"], TOKENS), (SCORING, SCORES)):
        plain, _ = make_step([*SMALL, *base, "--seq_scorer_log_abs_rel_err=False", "--out_dir=plain"])
        for name, flags in table.items():
            modified, modifiers = make_step([*SMALL, *base, *flags, f"--out_dir=out-{name}"])
            assert type(modifiers.modifiers[0]).__name__.startswith((name, "SequenceScoring" + name))
            ratios = time_ratios(modified, plain, rounds)
            print(f"{name:26} {median_and_interval(ratios, digits=3)}", flush=True)


def time_ratios(modified: core.TrainingStep, plain: core.TrainingStep, rounds: int) -> list[float]:
    """Return the ratios of the times of two steps, run in random order; the first WARMUP pairs are not counted."""
    ratios = []
    for number in range(rounds + WARMUP):
        pair = [("plain", plain), ("modified", modified)]
        random.shuffle(pair)
        times = {name: seconds(step.execute_step) for name, step in pair}
        if number >= WARMUP:
            ratios.append(times["modified"] / times["plain"])
    return ratios


def compare_masking(rounds: int) -> None:
    """Print the time that each stage takes to make a batch, and the time of an update of the preset's model."""
    composition = runpy.run_path(str(ROOT / "data" / "char_diffusion" / "config" / "complex.py"))
    shape = ["--block_size=1024", "--batch_size=16", "--n_layer=6", "--n_head=6", "--n_embd=384"]
    with contextlib.redirect_stdout(io.StringIO()), core.Runtime(device="cpu") as runtime:
        sources = {
            stage["type"] + f" {index}": open_data(
                configure(Options, [*SMALL, *shape, "--training_type=unmasking", f"--unmasking_stages=[{stage}]"]),
                runtime,
            ).batches
            for index, stage in enumerate(composition["unmasking_stages"])
        }
    step, _ = make_step([*SMALL, *shape, "--training_type=unmasking", "--out_dir=large"])
    medians = {}
    for name, source in sources.items():
        times = [seconds(partial(source.get_batch, "train")) for _ in range(rounds)]
        medians[name] = statistics.median(times) * 1000
        print(f"{name:12} {medians[name]:6.2f} ms (at most {max(times) * 1000:.2f})")
    update = statistics.median(seconds(step.execute_step) for _ in range(3)) * 1000
    mean = statistics.mean(medians.values())
    print(f"mean of the stages {mean:.2f} ms, an update {update:.0f} ms: {mean / update:.2%}")


def main() -> None:
    """Run the measurements named on the command line; by default both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["modifiers", "masking", []], default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    random.seed(0)
    np.random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), 65)
        os.chdir(folder)
        if "modifiers" in args.parts or not args.parts:
            compare_modifiers(args.rounds)
        if "masking" in args.parts or not args.parts:
            compare_masking(args.rounds)


if __name__ == "__main__":
    main()
