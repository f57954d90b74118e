"""
Train a GPT.

    python train.py config/quickstart.py
    torchrun --standalone --nproc_per_node=4 train.py config/train_gpt2.py
"""

import sys
from collections.abc import Sequence

import core
import wiring
from config.options import Options
from wiring import NOTHING_GIVEN, GivenParts


def build(
    options: Options, runtime: core.Runtime, preemption: core.Preemption, given: GivenParts = NOTHING_GIVEN
) -> core.Trainer:
    """Make every part of a run, in the order in which things happen, and the trainer that runs them."""
    checkpoints = core.CheckpointManager(options.out_dir, **options.pick("keep_last", "keep_best"))
    start = wiring.find_start(options, runtime, checkpoints)
    options, data = wiring.open_fitting_data(options, runtime, preemption, start, given)
    options, numbers = wiring.with_run_length(options, runtime, data, start)
    console = wiring.console(options, runtime)
    logger = core.CompositeLogger(console)
    runtime.at_exit(logger.close)  # what registers later is closed earlier: the last save ends before the loggers
    wiring.print_header(options, runtime, data, start, logger)

    # the model, what it learns, and the folder of the run
    initializer = wiring.make_initializer(options, runtime, logger.log_info)
    transfer = wiring.find_transfer_source(options, runtime, start)
    make_model = wiring.model_maker(options, runtime, data, start, initializer, transfer, given)
    (model, model_args), checkpoint = make_model()
    wiring.check_task(options, data, model_args, checkpoint)
    spikes = options.pick("spike_threshold", "spike_window", "warmup_iters")
    detector = core.InstabilityDetector(loss_scaling=runtime.scaler.is_enabled(), **spikes)
    objective, modifiers, files = wiring.make_objective(options, runtime, data, initializer, detector, given)
    wiring.enter_folder(options, runtime, preemption, data, checkpoints, start, [*files, transfer], given.callbacks)

    # the optimizer, and the model as training calls it: compiled, and spread over the processes
    parallel = wiring.make_parallel(options, runtime)
    model = parallel.shard(model)
    optimizer = wiring.make_optimizer(options, runtime, model, parallel, checkpoint, given)
    wrapped = initializer.compile_and_wrap_model(model, options.compile, parallel.wrap)

    # what the loop calls
    settings = wiring.step_settings(options, runtime)
    step = core.TrainingStep(wrapped, objective, optimizer, data.draw, parallel, **settings)
    settings = wiring.evaluation_settings(options, runtime, parallel, preemption, data, given.metrics)
    evaluator = core.Evaluator(parallel.unwrap(wrapped), objective, data.eval_draw, **settings)
    schedule = options.pick("learning_rate", "warmup_iters", "lr_decay_iters", "min_lr", "decay_lr")
    scheduler = wiring.non_cosine_schedule(options, numbers, given) or core.CosineLRScheduler(**schedule)
    checkpointer = wiring.make_checkpointer(
        options, runtime, data, model, model_args, make_model, step, checkpoints, detector
    )
    monitor = wiring.make_monitor(options, runtime, model, step, detector)
    logger.loggers += wiring.loggers(options, runtime, modifiers, checkpoint, given.loggers)
    watchers = wiring.callbacks(options, runtime, data, modifiers, scheduler, console, given.callbacks, checkpointer)
    trainer = core.Trainer(
        model, step, scheduler, evaluator, checkpointer, monitor, logger, runtime, preemption, watchers, numbers=numbers
    )
    if checkpoint:
        trainer.restore(checkpoint, options.resume_rng == "exact", start.manifest)
    return trainer


def main(argv: Sequence[str], callbacks: Sequence[object] = ()) -> float:
    """Run one experiment, given as its command line. Return the lowest validation loss."""
    options = wiring.read_options(argv)
    with (
        core.Preemption(options.time_limit) as preemption,
        core.Runtime(**wiring.runtime_settings(options, preemption)) as runtime,
    ):
        return build(options, runtime, preemption, wiring.given_callbacks(options, callbacks)).train()


if __name__ == "__main__":
    with core.exit_on_error(outlives_stdout=True):
        main(sys.argv[1:])
