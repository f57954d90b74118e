"""Optional features. This is the one list of "if this option is set, attach that feature"."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.errors import CheckpointError

if TYPE_CHECKING:
    from config.options import Options
    from core import Callback, CheckpointManager, Logger, LRScheduler, ModelInitializer, Replicated, RunFolder, Runtime
    from core.checkpoint.manager import CheckpointFile

from extras.tasks import Task

__all__ = [
    "Start", "Task", "adapt", "callbacks", "enter", "eval_rng", "find_start", "loggers", "parallel",
    "prepare_optimizer", "progress", "scheduler",
]  # fmt: skip

log = logging.getLogger("coregpt")
WANDB_NAMES = {  # those of the train_run and the core line
    "loss": "train/loss",
    "loss_modifiers/EntropyPenaltyModifier.entropy_penalty": "entropy_penalty",
    "loss_modifiers/EntropyPenaltyModifier.multiplier_ema": "entropy_multiplier_ema",
}


def adapt(model: Any, options: Options, initializer: ModelInitializer, source: Path | None) -> Any:
    """Return the model, transformed as the options ask; before the optimizer is made.

    source: the checkpoint whose transformer a new model starts from
    """
    from extras.freezing import freeze_transformer, trainable

    if source:
        initializer.setup_transfer_learning(model, source)
    if options.trainable:
        trainable(model, options.trainable)
    elif options.freezes:
        freeze_transformer(model)
    else:
        return model
    trains = [parameter.requires_grad for parameter in model.parameters()]
    late = options.unfreeze_at_iteration
    rest = "the others stay frozen" if late is None else f"the others from iteration {late} on"
    log.info(f"transfer: {sum(trains)} of {len(trains)} tensors train, {rest}")
    return model


def prepare_optimizer(optimizer: Any, model: Any, checkpoint: dict[str, Any] | None, options: Options) -> None:
    """Tell heads apart where the schedule does, and load the state of a resumed run, unfrozen if it was when saved."""
    from core import load_optimizer_state
    from extras.freezing import mark_heads
    from extras.unfreezing import replay

    if options.lr_schedule == "transfer":
        mark_heads(optimizer, model)
    if checkpoint is None:
        return
    if options.freezes or options.trainable:
        replay(model, optimizer, checkpoint.get("optimizer"), options.weight_decay)
    try:
        load_optimizer_state(optimizer, checkpoint.get("optimizer"))
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_frozen_otherwise(checkpoint, options)}") from None


def _frozen_otherwise(checkpoint: dict[str, Any], options: Options) -> str:
    """Return what to add to an error where a checkpoint's run froze other parameters than the options ask for."""
    saved, given = checkpoint.get("config") or {}, options.pick("freeze_transformer", "trainable")
    changed = [f"{name}={saved[name]!r}" for name in given if name in saved and saved[name] != given[name]]
    if not changed:
        return ""
    return (
        f"; its run had {', '.join(changed)}: resume it with that, or begin a new run from it with "
        f"init_from_checkpoint={options.out_dir} and another out_dir"
    )


def scheduler(options: Options) -> LRScheduler:
    """Return the learning rate of every iteration."""
    import core
    from extras import schedulers

    peak, floor, warmup = options.learning_rate, options.min_lr, options.warmup_iters
    least = min(floor / peak, 1.0) if peak else 1.0
    make: dict[str, Callable[[], LRScheduler]] = {
        "cosine": lambda: core.CosineLRScheduler(peak, warmup, options.lr_decay_iters, floor, options.decay_lr),
        "linear": lambda: core.LinearLRScheduler(peak, warmup, options.lr_decay_iters, floor),
        "constant": lambda: core.ConstantLRScheduler(peak, warmup),
        "inverse_sqrt": lambda: core.InverseSqrtLRScheduler(peak, warmup, floor),
        "wsd": lambda: core.WSDLRScheduler(
            peak, warmup, options.lr_decay_iters, floor, options.wsd_decay_iters or options.lr_decay_iters / 10
        ),
        "transfer": lambda: schedulers.TransferLearningScheduler(
            peak,
            options.head_lr_multiplier,
            warmup,
            options.unfreeze_at_iteration or 0,
            options.unfreeze_lr_multiplier,
            options.decay_lr,
            least,
        ),
        "warmup_only": lambda: schedulers.WarmupOnlyScheduler(peak, warmup, min_lr_ratio=least),
        "adaptive": lambda: schedulers.AdaptiveScheduler(
            peak, warmup_iters=warmup, patience=options.lr_patience, factor=options.lr_factor, min_lr=floor
        ),
    }
    return make[options.lr_schedule]()


def parallel(options: Options, run: Runtime) -> Replicated:
    """Return how the model is spread over processes."""
    from core import Replicated

    return Replicated(run.distributed, run.device)


def eval_rng(options: Options, run: Runtime) -> Callable[[], AbstractContextManager[None]]:
    """Return the context in which evaluations draw random numbers."""
    return run.isolated_rng if options.eval_rng == "isolated" else nullcontext


class Start(NamedTuple):
    """How a run starts: `init_from`, the checkpoint it resumes if it does, its folder, and the checkpoints in it."""

    init_from: str
    found: CheckpointFile | None
    folder: RunFolder
    checkpoints: CheckpointManager


def find_start(options: Options, run: Runtime) -> Start:
    """Return how the run starts; nobody else writes in its folder from here on."""
    from core import CheckpointManager, RunFolder, where_to_start
    from core.checkpoint.resume import restarted

    folder = RunFolder(options.out_dir)
    checkpoints = CheckpointManager(options.out_dir, **options.pick("keep_last", "keep_best"))
    run.at_exit(folder.release)

    def look() -> tuple[str, CheckpointFile | None]:
        if folder.path.is_dir() and not options.eval_only:  # which writes nothing
            folder.claim(wait_s=30 if restarted() else 0)
        if options.init_from == "resume" and options.ckpt_filename:
            return "resume", _named(Path(options.out_dir, options.ckpt_filename))
        return where_to_start(options.init_from, checkpoints)

    return Start(*run.on_master(look), folder, checkpoints)


def _named(path: Path) -> CheckpointFile:
    from core.checkpoint.manager import CheckpointFile

    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: ckpt_filename is the name of a file in out_dir, or None")
    return CheckpointFile(path, None)


def enter(options: Options, start: Start, needed: Iterable[Path] = ()) -> None:
    """Begin to write in the run's folder: make it; a fresh start moves a former run's files aside.

    needed: files of other runs, which must not be among them
    """
    if options.eval_only:
        return
    start.folder.claim()
    if start.found:
        start.checkpoints.relink(start.found)
    else:
        start.folder.set_aside_former_run(needed)


def loggers(options: Options, run: Runtime, saved: dict[str, Any]) -> list[Logger]:
    """Return the loggers the options ask for, beside the console; none on ranks other than the master.

    saved: their state in the checkpoint that the run resumes, by class name
    """
    from core import JsonlLogger, WandBLogger

    if not run.is_master:
        return []
    found: list[Logger] = [] if options.eval_only else [JsonlLogger(os.path.join(options.out_dir, "metrics.jsonl"))]
    if options.wandb_log:
        try:
            names, config = (options.wandb_project, options.wandb_run_name), options.model_dump()
            interval, known = options.wandb_log_interval, saved.get("WandBLogger")
            found.append(WandBLogger(*names, config, options.out_dir, interval, saved=known, also=WANDB_NAMES))
        except ImportError:
            log.warning("wandb_log=True, but wandb is not installed: pip install -e '.[wandb]'; going on without it")
        except Exception as error:
            log.warning(f"wandb could not be started, going on without it ({error})")
    return found


def callbacks(options: Options, scheduler: LRScheduler) -> list[Callback]:
    """Return the callbacks the options ask for; a schedule that watches the validation loss is one itself."""
    from core import Callback
    from extras.unfreezing import Unfreezing

    found: list[Callback] = [scheduler] if isinstance(scheduler, Callback) else []
    if options.unfreeze_at_iteration is not None and (options.freezes or options.trainable):
        drop = 1.0 if options.lr_schedule == "transfer" else options.unfreeze_lr_multiplier  # it is in the schedule
        found.append(Unfreezing(options.unfreeze_at_iteration, drop, options.weight_decay))
    return found


def progress(options: Options, run: Runtime) -> list[Any]:
    """Return a progress bar where stderr is a terminal; it is a logger and a callback at once."""
    if not (run.is_master and sys.stderr.isatty()):
        return []
    from extras.progress_bar import ProgressBar

    return [ProgressBar(sys.stderr, options.max_iters)]
