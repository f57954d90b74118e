"""The optimizer of a run, and its learning rate."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from core import (
    CheckpointError,
    ConfigError,
    ConstantLRScheduler,
    InverseSqrtLRScheduler,
    LinearLRScheduler,
    LoopNumbers,
    LRScheduler,
    Replicated,
    Runtime,
    StepLRScheduler,
    WSDLRScheduler,
)
from core.model_initializer import require_method
from core.optimizer import make_adafactor, make_adamw
from extras.freezing import mark_heads
from extras.schedulers import AdaptiveScheduler, TransferLearningScheduler, WarmupOnlyScheduler
from extras.unfreezing import replay
from wiring.given_parts import NOTHING_GIVEN, GivenParts

if TYPE_CHECKING:
    from config.options import Options

log = logging.getLogger("coregpt")
END_AT_MIN_LR = ("cosine", "linear", "wsd")


def _configured(model: Any, *settings: Any) -> torch.optim.Optimizer:
    """Return the optimizer that the model makes; without the device if it does not take that, as in early 2023.

    Raises ConfigError if a fork's method takes something else, or returns something else.
    """
    require_method(model, "configure_optimizers", "training")
    takes = inspect.signature(model.configure_optimizers)
    fitting = [given for given in (settings, settings[:3]) if _binds(takes, given)]
    if not fitting:
        raise ConfigError(
            f"model.py's GPT.configure_optimizers takes {takes}, wanted (weight_decay, learning_rate, betas, "
            "device_type), as in nanoGPT: give it these parameters"
        )
    made = model.configure_optimizers(*fitting[0])
    if not (isinstance(made, torch.optim.Optimizer) or hasattr(made, "optimizers")):
        raise ConfigError(
            f"model.py's GPT.configure_optimizers returns a {type(made).__name__}, wanted one torch.optim.Optimizer"
        )
    return made  # type: ignore[no-any-return]


def _binds(signature: inspect.Signature, arguments: tuple[Any, ...]) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def make_optimizer(
    options: Options,
    runtime: Runtime,
    model: Any,
    parallel: Replicated,
    checkpoint: dict[str, Any] | None,
    given: GivenParts = NOTHING_GIVEN,
) -> torch.optim.Optimizer:
    """Return the model's optimizer, with the state of the checkpoint that the run resumes, if it has one."""
    settings = (options.weight_decay, options.learning_rate, (options.beta1, options.beta2))
    if given.optimizer is not None:
        optimizer = given.make_optimizer(model)
    elif options.optimizer_type == "adafactor":
        optimizer = make_adafactor(model, options.weight_decay, options.learning_rate)
    elif given.model is not None and not hasattr(model, "configure_optimizers"):
        optimizer = make_adamw(model, *settings)
    else:
        optimizer = _configured(model, *settings, runtime.device.type)
    if not options.eval_only:
        for surprise in surprises(options, is_resumed=checkpoint is not None):
            log.warning(surprise)
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


def surprises(options: Options, is_resumed: bool) -> Iterator[str]:
    """Yield a message for everything in the learning rate's shape that the user's values hardly mean."""
    peak, floor, warmup, end = options.learning_rate, options.min_lr, options.warmup_iters, options.lr_decay_iters
    if not options.decay_lr or options.lr_schedule not in (*END_AT_MIN_LR, "inverse_sqrt"):
        return
    if floor > peak and {"min_lr", "learning_rate"} & options.model_fields_set:
        yield (
            f"min_lr={floor:g} is above learning_rate={peak:g}: the learning rate climbs to it; set min_lr to at most "
            "learning_rate (usual is a tenth of it), or decay_lr=False"
        )
    if options.lr_schedule == "inverse_sqrt":  # it has no end
        return
    if warmup > end and {"warmup_iters", "lr_decay_iters"} & options.model_fields_set:
        yield (
            f"warmup_iters={warmup} is above lr_decay_iters={end}: there is no decay, the learning rate grows until "
            f"iteration {warmup} and then drops to min_lr={floor:g} at once; lower warmup_iters or raise lr_decay_iters"
        )
    if is_resumed and options.max_iters > end and floor != peak:
        yield (
            f"resume: max_iters={options.max_iters} is beyond lr_decay_iters={end}: from there on the learning rate "
            f"stays at min_lr={floor:g}; set lr_decay_iters={options.max_iters} if it is to fall until the end"
        )


def non_cosine_schedule(
    options: Options, numbers: LoopNumbers | None = None, given: GivenParts = NOTHING_GIVEN
) -> LRScheduler | None:
    """Return the learning rate of every iteration; None for nanoGPT's cosine, which train.py makes.

    numbers: of the loop, with the updates of an epoch for lr_schedule=step
    """
    if given.scheduler is not None:
        return given.make_scheduler()
    peak, floor, warmup = options.learning_rate, options.min_lr, options.warmup_iters
    lowest_share = min(floor / peak, 1.0) if peak else 1.0
    make: dict[str, Callable[[], LRScheduler]] = {
        "linear": lambda: LinearLRScheduler(peak, warmup, options.lr_decay_iters, floor),
        "constant": lambda: ConstantLRScheduler(peak, warmup),
        "inverse_sqrt": lambda: InverseSqrtLRScheduler(peak, warmup, floor),
        "wsd": lambda: WSDLRScheduler(
            peak, warmup, options.lr_decay_iters, floor, options.wsd_decay_iters or options.lr_decay_iters / 10
        ),
        "step": lambda: StepLRScheduler(peak, warmup, (numbers and numbers.updates_per_epoch) or 1, options.lr_gamma),
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
