"""The settings of the loop's parts: the numbers of the loop, of an update and of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from core import LoopNumbers, Preemption, Replicated, Runtime
from core.evaluator import Measured, MeasureSplit, RunEvaluation

if TYPE_CHECKING:
    from config.options import Options
    from wiring.data import RunData


def runtime_settings(options: Options, preemption: Preemption) -> dict[str, Any]:
    """Return the keyword arguments of `Runtime`. A request to stop ends the wait for the other processes."""
    names = ("device", "dtype", "backend", "seed", "cpu_autocast", "start_timeout", "cpu_threads")
    return {**options.pick(*names), "preemption": preemption}


def loop_numbers(options: Options, runtime: Runtime) -> LoopNumbers:
    """Return the plain numbers of the loop. Raises ConfigError if the processes cannot share an update evenly."""
    micro_steps = runtime.micro_steps_per_rank(options.gradient_accumulation_steps)
    computed = ("sequences_per_iter", "tokens_per_iter", "updates_per_epoch")
    names = [name for name in LoopNumbers._fields if name not in computed]
    sequences = options.batch_size * micro_steps
    tokens = tokens_per_iter(options, runtime)
    return LoopNumbers(sequences_per_iter=sequences, tokens_per_iter=tokens, **options.pick(*names))


def tokens_per_iter(options: Options, runtime: Runtime) -> int:
    """Return the tokens of an update, of all processes."""
    micro_steps = runtime.micro_steps_per_rank(options.gradient_accumulation_steps) * runtime.world_size
    return options.batch_size * micro_steps * options.block_size


def make_parallel(options: Options, runtime: Runtime) -> Replicated:
    """Return how the model is spread over processes."""
    return Replicated(runtime.distributed, runtime.device)


def step_settings(options: Options, runtime: Runtime) -> dict[str, Any]:
    """Return the keyword arguments of `TrainingStep`."""
    return {
        "scaler": runtime.scaler,
        "autocast": runtime.autocast,
        "gradient_accumulation_steps": runtime.micro_steps_per_rank(options.gradient_accumulation_steps),
        "grad_clip": options.grad_clip,
    }


def evaluation_settings(
    options: Options,
    runtime: Runtime,
    parallel: Replicated,
    preemption: Preemption,
    data: RunData,
    measure: MeasureSplit | None = None,
) -> dict[str, Any]:
    """Return the keyword arguments of `Evaluator`. measure: further metrics of the user's"""
    return {
        "eval_iters": data.batches.eval_iters if data.rows is not None else options.eval_iters,
        "autocast": runtime.autocast,
        "rng": runtime.isolated_rng if options.eval_rng == "isolated" else nullcontext,
        "measure": measure,
        "on_ranks": where_to_evaluate(runtime, parallel, preemption),
    }


def where_to_evaluate(runtime: Runtime, parallel: Replicated, preemption: Preemption) -> RunEvaluation:
    """Return what runs an evaluation: on rank 0, where a signal may end it, or on every rank."""
    if parallel.evaluates_on_every_rank:  # a rank that a signal stopped would leave the others waiting
        return runtime.on_every_rank

    def on_master(evaluation: Callable[[], Measured]) -> Measured | None:
        return runtime.on_master(lambda: preemption.attempt(evaluation))

    return on_master
