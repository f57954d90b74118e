"""
Train a GPT.

    python train.py config/quickstart.py
    torchrun --standalone --nproc_per_node=4 train.py config/train_gpt2.py
"""

import os
import sys
from collections.abc import Sequence

import core
import extras
from config.options import Options
from configurator import configure
from data.token_bins import TokenBins
from model import GPT, GPTConfig


def build(options: Options, run: core.Runtime, callbacks: Sequence[core.Callback] = ()) -> core.Trainer:
    """Wire one run: every part is made here, from plain values, and handed to the trainer."""
    accumulation = run.share(options.gradient_accumulation_steps)
    data = TokenBins(os.path.join("data", options.dataset), options.block_size, options.batch_size, run.device)
    checkpoints = core.CheckpointManager(options.out_dir, writes=run.is_master)
    progress = extras.progress(options, run)
    logger = core.CompositeLogger([*progress, core.ConsoleLogger()] if run.is_master else [])
    sequences = options.batch_size * accumulation  # per iteration and process
    run.at_exit(logger.close)
    logger.log_info(f"tokens per iteration will be: {sequences * run.world_size * options.block_size:,}")
    if data.vocab_size:
        logger.log_info(f"found vocab_size = {data.vocab_size} (inside {data.meta_path})")

    # the model: made or loaded, then transformed (LoRA, freezing)
    initializer = core.ModelInitializer(GPT, GPTConfig, run.device, logger.log_info, options.changed("attention"))
    model_args = options.model_args(data.vocab_size)
    model, checkpoint = initializer.initialize(options.init_from, model_args, checkpoints)
    data.check_vocab(model_args["vocab_size"])
    model = extras.adapt(model, options)

    # the optimizer, then the model as training calls it: compiled, and spread over the processes
    betas = (options.beta1, options.beta2)
    optimizer = model.configure_optimizers(options.weight_decay, options.learning_rate, betas, run.device.type)
    if checkpoint:
        core.load_optimizer_state(optimizer, checkpoint.get("optimizer"))
    parallel = extras.parallel(options, run)
    wrapped = initializer.compile_and_wrap_model(model, options.compile, parallel.wrap)

    # what the loop calls: one update, an evaluation, the learning rate
    objective = extras.objective(options)
    step = core.TrainingStep(wrapped, objective, optimizer, data.get_batch, scaler=run.scaler, autocast=run.autocast,
                             grad_sync=parallel.grad_sync(wrapped), clip=parallel.clip, grad_clip=options.grad_clip,
                             gradient_accumulation_steps=accumulation)  # fmt: skip
    evaluator = core.Evaluator(parallel.unwrap(wrapped), objective, data.get_batch, autocast=run.autocast,
                               eval_iters=options.eval_iters)  # fmt: skip
    scheduler = core.CosineLRScheduler(options.learning_rate, options.warmup_iters, options.lr_decay_iters,
                                       options.min_lr, options.decay_lr)  # fmt: skip
    logger.loggers += extras.loggers(options, run)
    detector = core.InstabilityDetector(run.any_rank, loss_scaling=run.scaler.is_enabled())
    trainer = core.Trainer(model, step, scheduler, evaluator, detector, checkpoints, logger, run, parallel,
                           [*progress, *extras.callbacks(options), *callbacks],
                           sequences_per_iter=sequences, model_args=model_args, config=options.model_dump(),
                           **options.pick("max_iters", "eval_interval", "log_interval", "eval_only",
                                          "always_save_checkpoint", "on_instability"))  # fmt: skip
    if checkpoint:
        trainer.restore(checkpoint, exact=options.resume_rng == "exact")
    return trainer


def main(argv: Sequence[str], callbacks: Sequence[core.Callback] = ()) -> float:
    """Run one experiment, given as its command line. Return the lowest validation loss."""
    options = configure(Options, argv)
    with core.Runtime(**options.pick("device", "dtype", "backend", "seed", "cpu_autocast")) as run:
        return build(options, run, callbacks).train()


if __name__ == "__main__":
    with core.exit_on_error():
        main(sys.argv[1:])
