"""
What loss modifiers and masking cost.

    python -m benchmark.objective_cost [modifiers] [masking] [--threads N] [--rounds N]

modifiers  unmasking (or, for the scorer's own, sequence scoring): updates with one modifier and without any, in random
           order in one process
masking    drawing and masking a batch of (16, 1024) by each stage of the composition `complex`, against an update of
           its preset's model on this machine
"""

import argparse
import contextlib
import io
import os
import random
import runpy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import core
import train
from benchmark.reliability_cost import write_data
from benchmark.throughput import interval
from config.options import Options
from configurator import configure
from wiring.data import open_data

ROOT = Path(__file__).resolve().parent.parent
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
SCORING = ["--training_type=sequence_scoring", "--unmasking_model_checkpoint=filler"]


def quiet_main(arguments: list[str]) -> None:
    """Train, and let nothing of it be printed."""
    with contextlib.redirect_stdout(io.StringIO()):
        train.main(arguments)


def steps(arguments: list[str]) -> tuple[Any, Any]:
    """Return the training step of a run, and its loss modifiers."""
    options = configure(Options, arguments)
    run = core.Runtime(device="cpu").__enter__()
    trainer = train.build(options, run, core.Preemption())
    modifiers = getattr(trainer.step.objective, "modifiers", None)
    if modifiers is not None:
        modifiers.iter_num = 100  # schedules are at their ends
    return trainer.step, modifiers


def seconds(step: Any) -> float:
    """Return how long one update takes."""
    began = time.perf_counter()
    step.execute_step()
    return time.perf_counter() - began


def compare_modifiers(rounds: int) -> None:
    """Print what each modifier costs in an update."""
    quiet_main([*SMALL, "--training_type=unmasking", "--max_iters=1", "--eval_interval=1", "--out_dir=filler"])
    quiet_main([*SMALL, *SCORING, "--max_iters=1", "--eval_interval=1", "--out_dir=judge"])
    for base, table in ((["--training_type=unmasking"], TOKENS), (SCORING, SCORES)):
        with contextlib.redirect_stdout(io.StringIO()):
            plain, _ = steps([*SMALL, *base, "--seq_scorer_log_abs_rel_err=False", "--out_dir=plain"])
        for name, flags in table.items():
            with contextlib.redirect_stdout(io.StringIO()):
                modified, modifiers = steps([*SMALL, *base, *flags, f"--out_dir=out-{name}"])
            assert type(modifiers.modifiers[0]).__name__.startswith((name, "SequenceScoring" + name))
            ratios = []
            for number in range(rounds + 3):
                pair = [("plain", plain), ("modified", modified)]
                random.shuffle(pair)
                took = {which: seconds(step) for which, step in pair}
                if number >= 3:
                    ratios.append(took["modified"] / took["plain"])
            low, high = interval(ratios)
            print(f"{name:26} {statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]", flush=True)


def compare_masking(rounds: int) -> None:
    """Print how long each stage takes to make a batch, and an update of the preset's model."""
    composition = runpy.run_path(str(ROOT / "data" / "char_diffusion" / "config" / "complex.py"))
    shape = ["--block_size=1024", "--batch_size=16", "--n_layer=6", "--n_head=6", "--n_embd=384"]
    with contextlib.redirect_stdout(io.StringIO()), core.Runtime(device="cpu") as run:
        sources = {
            stage["type"] + f" {index}": open_data(
                configure(Options, [*SMALL, *shape, "--training_type=unmasking", f"--unmasking_stages=[{stage}]"]), run
            ).batches
            for index, stage in enumerate(composition["unmasking_stages"])
        }
        step, _ = steps([*SMALL, *shape, "--training_type=unmasking", "--out_dir=large"])
    medians = {}
    for name, source in sources.items():
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            source.get_batch("train")
            took.append(time.perf_counter() - began)
        medians[name] = statistics.median(took) * 1000
        print(f"{name:12} {medians[name]:6.2f} ms (to {max(took) * 1000:.2f})")
    update = statistics.median(seconds(step) for _ in range(3)) * 1000
    mean = statistics.mean(medians.values())
    print(f"mean of the stages {mean:.2f} ms, an update {update:.0f} ms: {mean / update:.2%}")


def main() -> None:
    """Measure what the command line names, or all."""
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
