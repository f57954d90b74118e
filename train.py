"""
Train a GPT.

    python train.py config/quickstart.py
    torchrun --standalone --nproc_per_node=4 train.py config/train_gpt2.py
"""

import sys
from collections.abc import Sequence
from typing import Any

import core
import extras
from config.options import Options
from configurator import configure
from model import GPT, GPTConfig


def build(
    options: Options, run: core.Runtime, preemption: core.Preemption, callbacks: Sequence[core.Callback] = ()
) -> core.Trainer:
    """Wire one run: every part is made here, from plain values, and handed to the trainer."""
    accumulation = run.share(options.gradient_accumulation_steps)
    task = extras.Task(options, run)
    draw = preemption.guard(task.data.get_batch) if run.world_size == 1 else task.data.get_batch
    start = extras.find_start(options, run)
    progress = extras.progress(options, run)
    logger = core.CompositeLogger([*progress, core.ConsoleLogger()] if run.is_master else [])
    run.at_exit(logger.close)
    sequences = options.batch_size * accumulation  # per iteration and process
    logger.log_info(f"tokens per iteration will be: {sequences * run.world_size * options.block_size:,}")
    if task.text_vocab_size:
        logger.log_info(f"found vocab_size = {task.text_vocab_size} (inside {task.source.meta_path})")

    # the model: made or loaded, then transformed (LoRA, freezing); made again when a recovery starts over
    initializer = core.ModelInitializer(GPT, GPTConfig, run.device, logger.log_info, options.changed("attention"))
    model_args = task.model_args()

    def make_model() -> tuple[Any, dict[str, Any] | None]:
        run.seed_all()
        saved = start.found and core.load_checkpoint(start.found.path, check=start.found.manifest is None)
        model = initializer.initialize(start.init_from, model_args, saved)
        return extras.adapt(model, options, initializer, None if saved else task.transfer_source), saved

    if start.found:
        logger.log_info(f"Resuming training from {options.out_dir}")
    model, checkpoint = make_model()
    task.check(model_args, checkpoint)
    objective = task.objective(initializer)  # with the frozen models it asks, while a former run is still in its place
    if not start.found and run.world_size == 1:  # a former run stays in its place until there is data
        preemption.precede(task.wait_for_data)
    run.on_master(lambda: extras.enter(options, start, task.files))

    # the optimizer, then the model as training calls it: compiled, and spread over the processes
    optimizer = model.configure_optimizers(options.weight_decay, options.learning_rate,
                                           (options.beta1, options.beta2), run.device.type)  # fmt: skip
    extras.prepare_optimizer(optimizer, model, checkpoint, options)
    parallel = extras.parallel(options, run)
    wrapped = initializer.compile_and_wrap_model(model, options.compile, parallel.wrap)

    # what the loop calls: one update, an evaluation, the learning rate
    step = core.TrainingStep(wrapped, objective, optimizer, draw, scaler=run.scaler, autocast=run.autocast,
                             grad_sync=parallel.grad_sync(wrapped), clip=parallel.clip, norm=parallel.norm,
                             grad_clip=options.grad_clip, gradient_accumulation_steps=accumulation)  # fmt: skip
    evaluator = core.Evaluator(parallel.unwrap(wrapped), objective, task.eval_draw(draw), autocast=run.autocast,
                               eval_iters=options.eval_iters, rng=extras.eval_rng(options, run))  # fmt: skip
    scheduler = extras.scheduler(options)
    archive = build_archive(options, run, model, step, parallel, start.checkpoints, task, make_model, model_args)
    recovery = core.Recovery(**options.pick("on_instability", "max_recoveries", "recovery_skip", "recovery_lr_factor"))
    logger.loggers += [*task.loggers(), *extras.loggers(options, run, (checkpoint or {}).get("loggers", {}))]
    trainer = core.Trainer(model, step, scheduler, evaluator, archive, recovery, preemption, logger, run,
                           [*progress, *task.callbacks(), *extras.callbacks(options, scheduler), *callbacks],
                           sequences_per_iter=sequences, config=options.model_dump(),
                           **options.pick("max_iters", "eval_interval", "log_interval", "eval_only",
                                          "always_save_checkpoint"))  # fmt: skip
    if checkpoint:
        trainer.restore(checkpoint, options.resume_rng == "exact", start.found.manifest if start.found else None)
    return trainer


def build_archive(
    options: Options, run: core.Runtime, model: Any, step: core.TrainingStep, parallel: core.Replicated,
    checkpoints: core.CheckpointManager, task: extras.Task, remake: Any, model_args: dict[str, Any],
) -> core.Archive:  # fmt: skip
    """Wire what keeps the run: its checkpoints, when they are due, and what judges whether they are sound."""
    saves = core.SaveSchedule(options.save_interval, options.save_minutes)
    detector = core.InstabilityDetector(loss_scaling=run.scaler.is_enabled(),
                                        **options.pick("spike_threshold", "spike_window", "warmup_iters"))  # fmt: skip
    provenance = {**core.checkpoint.provenance.describe(run.device, run.world_size), "data": task.fingerprint()}
    config = {**options.model_dump(), **task.notes()}
    archive = core.Archive(model, step, run, parallel, checkpoints, saves, detector, data=task.data, remake=remake,
                           model_args=model_args, config=config, provenance=provenance,
                           in_background=options.async_save)  # fmt: skip
    run.at_exit(archive.close)
    return archive


def main(argv: Sequence[str], callbacks: Sequence[core.Callback] = ()) -> float:
    """Run one experiment, given as its command line. Return the lowest validation loss."""
    options = configure(Options, argv)
    with (
        core.Preemption(options.time_limit) as preemption,
        core.Runtime(**options.pick("device", "dtype", "backend", "seed", "cpu_autocast")) as run,
    ):
        return build(options, run, preemption, callbacks).train()


if __name__ == "__main__":
    with core.exit_on_error():
        main(sys.argv[1:])
