"""What watches a run: its loggers and callbacks."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import Callback, ConsoleLogger, JsonlLogger, Logger, LRScheduler, Runtime, WandBLogger
from core.checkpoint.run_folder import CONFIG, is_own_config
from core.commands import install_command
from data.token_bins import TokenBins
from extras.early_stopping import EarlyStopping
from extras.epoch_meter import EpochMeter
from extras.event_callbacks import EventCallback, needs_adapter
from extras.finite_losses import FiniteLosses
from extras.hugging_face.final_model import FinalModel
from extras.iteration_clock import IterationClock
from extras.objective_lines import ObjectiveLines
from extras.progress_bar import ProgressBar
from extras.queue_release import QueueRelease
from extras.run_record import RunRecord
from extras.run_summary import RunSummary
from extras.unfreezing import Unfreezing
from wiring.given_parts import GivenData
from wiring.loop import tokens_per_iter

if TYPE_CHECKING:
    from config.options import Options
    from core import Checkpointer
    from loss_modifiers import LossModifierPipeline
    from wiring.data import RunData
    from wiring.start import RunStart

log = logging.getLogger("coregpt")
GOES_ON = ("resume", "auto")
WANDB_NAMES = {  # those of the train_run and the core line
    "loss": "train/loss",
    "loss_modifiers/EntropyPenaltyModifier.entropy_penalty": "entropy_penalty",
    "loss_modifiers/EntropyPenaltyModifier.multiplier_ema": "entropy_multiplier_ema",
}


def console(options: Options, runtime: Runtime) -> list[Logger]:
    """Return the loggers of a terminal: nanoGPT's lines, and on stderr a summary and, if it is one, a progress bar.

    None but on rank 0.
    """
    if not runtime.is_master:
        return []
    found: list[Logger] = [ProgressBar(sys.stderr, options.max_iters)] if sys.stderr.isatty() else []
    if not options.eval_only:
        found.append(RunSummary(options.device if "device" in options.model_fields_set else None, options.num_epochs))
    return [*found, ConsoleLogger()]


def print_header(options: Options, runtime: Runtime, data: RunData, start: RunStart, logger: Logger) -> None:
    """Print nanoGPT's first lines."""
    logger.log_info(f"tokens per iteration will be: {tokens_per_iter(options, runtime):,}")
    if data.source.vocab_size and data.source.meta_path.exists():
        logger.log_info(f"found vocab_size = {data.source.vocab_size} (inside {data.source.meta_path})")
    if start.found:
        logger.log_info(f"Resuming training from {options.out_dir}")


def loggers(
    options: Options,
    runtime: Runtime,
    modifiers: LossModifierPipeline | None,
    checkpoint: dict[str, Any] | None,
    of_user: Sequence[Logger] = (),
) -> list[Logger]:
    """Return the loggers that the options ask for, in addition to the console's, and the user's; none but on rank 0.

    checkpoint: the one that the run resumes, with the states of its loggers
    """
    if not runtime.is_master:
        return []
    found: list[Logger] = []
    if options.training_type != "language_model" or modifiers is not None:
        found.append(ObjectiveLines(options.training_type, options.max_entropy_penalty))
    if not options.eval_only:
        found.append(JsonlLogger(os.path.join(options.out_dir, "metrics.jsonl")))
    if options.wandb_log:
        found += _wandb(options, (checkpoint or {}).get("loggers", {}))
    return [*found, *of_user]


def _wandb(options: Options, saved: dict[str, Any]) -> list[Logger]:
    try:
        return [
            WandBLogger(
                options.wandb_project,
                options.wandb_run_name,
                options.model_dump(),
                options.out_dir,
                options.wandb_log_interval,
                saved=saved.get("WandBLogger"),
                also=WANDB_NAMES,
                place={"entity": options.wandb_entity, "group": options.wandb_group, "tags": options.wandb_tags},
            )
        ]
    except ImportError:
        log.warning(f"wandb_log=True, but wandb is not installed: {install_command('wandb')}; going on without it")
    except Exception as error:
        log.warning(f"wandb could not be started, going on without it ({error})")
    return []


def callbacks(
    options: Options,
    runtime: Runtime,
    data: RunData,
    modifiers: LossModifierPipeline | None,
    scheduler: LRScheduler,
    console: Sequence[Logger],
    of_user: Sequence[Any] = (),
    checkpointer: Checkpointer | None = None,
) -> list[Callback]:
    """Return the callbacks that the options ask for, then the user's own.

    A schedule that watches the validation loss is a callback itself.

    of_user: instances of ours as they are; those of the C line, and other objects with events, get an adapter
    """
    found: list[Callback] = [logger for logger in console if isinstance(logger, Callback)]
    if not options.eval_only:
        config = Path(options.out_dir, CONFIG)
        found.append(RunRecord(options.model_dump(), config, _as_begun(options, config).save))
    ours = () if isinstance(data.source, GivenData) else (data.batches,)
    listeners: list[Any] = [part for part in (modifiers, *ours) if hasattr(part, "iter_num")]
    if listeners:
        found.append(IterationClock(listeners))
    if data.is_queue:
        found.append(QueueRelease(data.source, options.out_dir))
    found += [part for part in (data.timer, data.stages) if part is not None]
    if isinstance(scheduler, Callback):
        found.append(scheduler)
    if options.unfreeze_at_iteration is not None and (options.freezes or options.trainable):
        drop = 1.0 if options.lr_schedule == "transfer" else options.unfreeze_lr_multiplier  # the schedule has it
        found.append(Unfreezing(options.unfreeze_at_iteration, drop, options.weight_decay))
    if options.early_stopping_patience:
        limits = options.early_stopping_patience, options.early_stopping_threshold
        found.append(EarlyStopping(*limits, options.best_metric, options.best_mode))
    writes_folders = checkpointer is not None and not checkpointer.writer.suffix
    if writes_folders and options.final_model != "none" and not options.eval_only:
        found.append(FinalModel(options.final_model))
    if options.eval_only:
        found.append(FiniteLosses())
    return [*found, *_adapted(options, runtime, data, of_user)]


def _as_begun(options: Options, config: Path) -> Options:
    """Return the options with which the same run begins anew: those of a resume, with the start of its first process.

    config: the options file that an earlier process of the run has written
    """
    if options.init_from not in GOES_ON:
        return options
    before = re.search(r"^ *init_from: (\S+)$", config.read_text(), re.MULTILINE) if is_own_config(config) else None
    start = before[1] if before and before[1] not in GOES_ON else "scratch"
    return options.replace(init_from=start, ckpt_filename=None)


def _adapted(options: Options, runtime: Runtime, data: RunData, of_user: Sequence[Any]) -> list[Callback]:
    """Return the user's callbacks; before them, if one needs an adapter, the meter that the adapters read."""
    train_tokens = len(data.source.files["train"]) if isinstance(data.source, TokenBins) else None
    meter = EpochMeter(tokens_per_iter(options, runtime), train_tokens)
    adapted = [EventCallback(callback, meter) if needs_adapter(callback) else callback for callback in of_user]
    return [meter, *adapted] if any(map(needs_adapter, of_user)) else adapted
