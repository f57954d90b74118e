"""Optional features. This is the one list of "if this option is set, attach that feature"."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from config.options import Options
    from core import Callback, CheckpointManager, Logger, Objective, Replicated, RunFolder, Runtime
    from core.checkpoint_manager import Found

log = logging.getLogger("coregpt")


def adapt(model: Any, options: Options) -> Any:
    """Return the model, transformed as the options ask; before the optimizer is made."""
    return model


def parallel(options: Options, run: Runtime) -> Replicated:
    """Return how the model is spread over processes."""
    from core import Replicated

    return Replicated(run.distributed, run.device)


def objective(options: Options) -> Objective:
    """Return what a training step computes."""
    from core import LanguageModeling

    return LanguageModeling()


def eval_rng(options: Options, run: Runtime) -> Callable[[], AbstractContextManager[None]]:
    """Return the context in which evaluations draw random numbers."""
    return run.isolated_rng if options.eval_rng == "isolated" else nullcontext


class Start(NamedTuple):
    """How a run starts: `init_from`, the checkpoint it resumes if it does, its folder, and the checkpoints in it."""

    init_from: str
    found: Found | None
    folder: RunFolder
    checkpoints: CheckpointManager


def find_start(options: Options, run: Runtime) -> Start:
    """Return how the run starts; nobody else writes in its folder from here on."""
    from core import CheckpointManager, RunFolder, where_to_start
    from core.resume import restarted

    folder = RunFolder(options.out_dir)
    checkpoints = CheckpointManager(options.out_dir, **options.pick("keep_last", "keep_best"))
    run.at_exit(folder.release)

    def look() -> tuple[str, Found | None]:
        if folder.path.is_dir() and not options.eval_only:  # which writes nothing
            folder.claim(wait_s=30 if restarted() else 0)
        return where_to_start(options.init_from, checkpoints)

    return Start(*run.from_master(look), folder, checkpoints)


def enter(options: Options, start: Start) -> None:
    """Begin to write in the run's folder: make it; a fresh start moves a former run's files aside."""
    if options.eval_only:
        return
    start.folder.claim()
    if start.found:
        start.checkpoints.relink(start.found)
    else:
        start.folder.set_aside_former_run()


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
            known = saved.get("WandBLogger")
            found.append(WandBLogger(*names, config, options.out_dir, options.wandb_log_interval, saved=known))
        except ImportError:
            log.warning("wandb_log=True, but wandb is not installed: pip install -e '.[wandb]'; going on without it")
        except Exception as error:
            log.warning(f"wandb could not be started, going on without it ({error})")
    return found


def callbacks(options: Options) -> list[Callback]:
    """Return the callbacks the options ask for."""
    return []


def progress(options: Options, run: Runtime) -> list[Any]:
    """Return a progress bar where stderr is a terminal; it is a logger and a callback at once."""
    if not (run.is_master and sys.stderr.isatty()):
        return []
    from extras.progress_bar import ProgressBar

    return [ProgressBar(sys.stderr, options.max_iters)]
