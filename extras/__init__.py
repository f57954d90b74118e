"""Optional features. This is the one list of "if this option is set, attach that feature"."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.options import Options
    from core import Callback, Logger, Objective, Replicated, Runtime

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


def loggers(options: Options, run: Runtime) -> list[Logger]:
    """Return the loggers the options ask for, beside the console; none on ranks other than the master."""
    from core import JsonlLogger, WandBLogger

    if not run.is_master:
        return []
    found: list[Logger] = [JsonlLogger(os.path.join(options.out_dir, "metrics.jsonl"))]
    if options.wandb_log:
        try:
            names = options.wandb_project, options.wandb_run_name
            found.append(WandBLogger(*names, options.model_dump(), options.out_dir, options.wandb_log_interval))
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
