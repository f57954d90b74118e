"""How long a run is: epochs as updates, and where a process that trains some epochs ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from core import ConfigError, LoopNumbers, Runtime
from core.checkpoint.format import load_values
from data.rows.batches import RowBatches
from data.token_bins import TokenBins
from wiring.loop import loop_numbers, tokens_per_iter

if TYPE_CHECKING:
    from collections.abc import Callable

    from config.options import Options
    from wiring.data import RunData
    from wiring.start import RunStart


def with_run_length(options: Options, runtime: Runtime, data: RunData, start: RunStart) -> tuple[Options, LoopNumbers]:
    """Return the options with the numbers that follow from epochs and shares of the run, and the numbers of the loop.

    `num_epochs` gives max_iters, unless the user's own is lower; without the user's own, lr_decay_iters is the run's
    number of updates, too. `warmup_ratio` gives warmup_iters. With `epochs_per_job` alone a run has no end. Raises
    ConfigError if the data have no epochs.
    """
    own, found = options.model_fields_set, dict[str, Any]()
    last: float = options.max_iters
    if options.epochs_per_job is not None and "max_iters" not in own:
        last = math.inf
    if options.num_epochs is not None:
        last = _counter(options, runtime, data, "num_epochs")(options.num_epochs) - 1
        last = min(last, options.max_iters) if "max_iters" in own else last
        found = {"max_iters": last, "lr_decay_iters": options.lr_decay_iters if "lr_decay_iters" in own else last + 1}
    if options.warmup_ratio is not None:
        if not math.isfinite(last):
            raise ConfigError("warmup_ratio is a share of the run's updates: set num_epochs or max_iters, too")
        found["warmup_iters"] = math.ceil(options.warmup_ratio * (last + 1))
    group = options.epochs_per_job or 1
    if options.epochs_per_job is not None:
        last = min(last, _end_of_job(_counter(options, runtime, data, "epochs_per_job"), group, _first_iter(start)))
    per_epoch = None
    if options.lr_schedule == "step":
        per_epoch = _counter(options, runtime, data, "lr_schedule=step")(group) / group
    options = _replaced(options, found)
    return options, loop_numbers(options, runtime)._replace(max_iters=last, updates_per_epoch=per_epoch)


def _replaced(options: Options, found: dict[str, Any]) -> Options:
    """Return the options with other values that do not count as the user's."""
    if not found:
        return options
    return type(options).validated({**options.model_dump(), **found}, options.model_fields_set)


def _counter(options: Options, runtime: Runtime, data: RunData, option: str) -> Callable[[float], int]:
    """Return `count(epochs)`, the number of updates of so many epochs. option: which needs them, for the error"""
    if isinstance(data.batches, RowBatches) and data.batches.has_epochs:
        return data.batches.count_updates
    if not isinstance(data.source, TokenBins):
        raise ConfigError(
            f"{option} needs data whose size is known, not a stream or a queue: give max_iters in place of epochs"
        )
    tokens, per_update = len(data.source.files["train"]), tokens_per_iter(options, runtime)
    return lambda epochs: math.ceil(epochs * tokens / per_update)


def _first_iter(start: RunStart) -> int:
    """Return the iteration with which this process begins."""
    if start.found is None:
        return 0
    values = start.read_checkpoint() if start.is_of_c_line else load_values(start.found.path)
    return int((values or {})["iter_num"])


def _end_of_job(count: Callable[[float], int], epochs: int, first: int) -> int:
    """Return the last iteration of the group of epochs in which the iteration `first` is."""
    groups = 1
    while count(groups * epochs) <= first:
        groups += 1
    return count(groups * epochs) - 1
