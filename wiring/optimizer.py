"""The optimizer of a run, and its learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from core import (
    CheckpointError,
    ConstantLRScheduler,
    InverseSqrtLRScheduler,
    LinearLRScheduler,
    LRScheduler,
    Replicated,
    Runtime,
    WSDLRScheduler,
)
from extras.freezing import mark_heads
from extras.schedulers import AdaptiveScheduler, TransferLearningScheduler, WarmupOnlyScheduler
from extras.unfreezing import replay

if TYPE_CHECKING:
    from config.options import Options


def make_optimizer(
    options: Options, runtime: Runtime, model: Any, parallel: Replicated, checkpoint: dict[str, Any] | None
) -> torch.optim.Optimizer:
    """Return the model's optimizer, with the state of the checkpoint that the run resumes, if it has one."""
    betas = (options.beta1, options.beta2)
    optimizer: torch.optim.Optimizer = model.configure_optimizers(
        options.weight_decay, options.learning_rate, betas, runtime.device.type
    )
    if options.lr_schedule == "transfer":
        mark_heads(optimizer, model)
    saved = (checkpoint or {}).get("optimizer")
    if checkpoint is None or saved is None:
        return optimizer
    if options.freezes or options.trainable:
        replay(model, optimizer, saved, options.weight_decay)
    try:
        parallel.load_state_dict(model, optimizer, {"optimizer": saved})
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_what_to_do(checkpoint, options)}") from None
    return optimizer


def _what_to_do(checkpoint: dict[str, Any], options: Options) -> str:
    """Return what to add to the error if the optimizer's state does not fit, such as that other parameters froze."""
    saved, given = checkpoint.get("config") or {}, options.pick("freeze_transformer", "trainable")
    changed = [f"{name}={saved[name]!r}" for name in given if name in saved and saved[name] != given[name]]
    new_run = f"begin a new run from it with init_from_checkpoint={options.out_dir} and another out_dir"
    if not changed:
        return f"; to go on from its weights with fresh moments, {new_run}"
    return f"; its run had {', '.join(changed)}: resume it with that, or {new_run}"


def non_cosine_schedule(options: Options) -> LRScheduler | None:
    """Return the learning rate of every iteration; None for nanoGPT's cosine, which train.py makes."""
    peak, floor, warmup = options.learning_rate, options.min_lr, options.warmup_iters
    lowest_share = min(floor / peak, 1.0) if peak else 1.0
    make: dict[str, Callable[[], LRScheduler]] = {
        "linear": lambda: LinearLRScheduler(peak, warmup, options.lr_decay_iters, floor),
        "constant": lambda: ConstantLRScheduler(peak, warmup),
        "inverse_sqrt": lambda: InverseSqrtLRScheduler(peak, warmup, floor),
        "wsd": lambda: WSDLRScheduler(
            peak, warmup, options.lr_decay_iters, floor, options.wsd_decay_iters or options.lr_decay_iters / 10
        ),
        "transfer": lambda: TransferLearningScheduler(
            peak,
            options.head_lr_multiplier,
            warmup,
            options.unfreeze_at_iteration or 0,
            options.unfreeze_lr_multiplier,
            options.decay_lr,
            lowest_share,
        ),
        "warmup_only": lambda: WarmupOnlyScheduler(peak, warmup, min_lr_ratio=lowest_share),
        "adaptive": lambda: AdaptiveScheduler(
            peak, warmup_iters=warmup, patience=options.lr_patience, factor=options.lr_factor, min_lr=floor
        ),
    }
    return make[options.lr_schedule]() if options.lr_schedule != "cosine" else None
