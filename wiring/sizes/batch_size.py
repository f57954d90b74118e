"""The data of a run in batches that fit into the memory."""

from __future__ import annotations

import gc
import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

import torch

from core import ConfigError, InstabilityDetector, Preemption, Runtime
from core.batch import Batch, to_device
from core.checkpoint.format import load_values
from core.machine.memory import TooLargeError, is_out_of_memory
from core.objective import Objective
from data.rows.batches import RowBatches
from wiring.data import RunData, open_data
from wiring.given_parts import GivenParts
from wiring.model import check_task, find_transfer_source, make_initializer, model_maker, require_training_memory
from wiring.objective import make_objective

if TYPE_CHECKING:
    from config.options import Options
    from wiring.start import RunStart

log = logging.getLogger("coregpt")


def open_fitting_data(
    options: Options, runtime: Runtime, preemption: Preemption, start: RunStart, given: GivenParts
) -> tuple[Options, RunData]:
    """Return the options and the data of a run; with auto_batch_size, the batch size is the largest that fits.

    It is a divisor of the sequences of an update, which stay the same. Nothing else changes: no weight, no random
    state, no position in the data. Raises ConfigError if not even batches of one sequence fit.
    """
    data = open_data(options, runtime, preemption, start, given)
    if not options.auto_batch_size or options.eval_only:
        return options, data
    if data.is_queue or given.data is not None or given.model is not None:
        raise ConfigError(
            "auto_batch_size=True tries batches of the data set on the model that the options make: remove it for a "
            "queue of batches, or for data or a model handed in from Python"
        )
    sequences = options.batch_size * options.gradient_accumulation_steps
    per_rank = options.batch_size * runtime.micro_steps_per_rank(options.gradient_accumulation_steps)
    largest = min(options.batch_size, _saved_size(start, sequences) or options.batch_size)
    sizes = [size for size in range(largest, 0, -1) if per_rank % size == 0]
    rng = runtime.rng_state()
    try:
        with _silent():
            attempt = _Attempt(options, runtime, start, data, given)
        size = next((size for size in sizes if not runtime.is_true_on_any_rank(not attempt.fits(size))), None)
    finally:
        attempt = None  # type: ignore[assignment]  # its model is not needed any more
        _free(runtime.device)
        runtime.set_rng_state(rng)
    if size is None:
        raise ConfigError(
            "auto_batch_size=True: not even a batch of one sequence fits into the memory: lower block_size, set "
            "activation_checkpointing=full if it is a model of Hugging Face, or choose a smaller model"
        )
    steps = sequences // size
    log.info(
        f"auto_batch_size: {'' if size == options.batch_size else f'not batch_size={options.batch_size}, but '}"
        f"batch_size={size} fits, with gradient_accumulation_steps={steps}"
    )
    if size == options.batch_size:
        return options, data
    options = options.derive(batch_size=size, gradient_accumulation_steps=steps)
    with _silent():
        return options, open_data(options, runtime, preemption, start, given)


class _Attempt:
    """A model like that of the run, and the data, to try batches with."""

    def __init__(self, options: Options, runtime: Runtime, start: RunStart, data: RunData, given: GivenParts) -> None:
        self.options, self.runtime, self.data = options, runtime, data
        initializer = make_initializer(options, runtime, lambda line: None)
        transfer = find_transfer_source(options, runtime, start)
        detector = InstabilityDetector()
        self.objective: Objective = make_objective(options, runtime, data, initializer, detector, given).objective
        one = options.derive(batch_size=1)  # only the size of the model is checked here
        (self.model, model_args), checkpoint = model_maker(one, runtime, data, start, initializer, transfer, given)()
        check_task(options, data, model_args, checkpoint)

    def fits(self, size: int) -> bool:
        """Return whether two micro-batches of this size fit, next to the state of the optimizer."""
        try:
            require_training_memory(self.model, self.options.derive(batch_size=size), self.runtime)
            self._try(size)
        except (TooLargeError, MemoryError):
            return False
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            self.model.zero_grad(set_to_none=True)
            _free(self.runtime.device)
        return True

    def _try(self, size: int) -> None:
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        copies = (2 if self.options.optimizer_type == "adamw" else 0) + self.runtime.distributed  # and DDP's buckets
        kept = [torch.empty_like(parameter) for parameter in trained for _ in range(copies)]
        for _ in range(2):  # the second time with the gradients of the first, as when they are accumulated
            batch = to_device(self._draw(size), self.runtime.device)
            with self.runtime.autocast:
                loss = self.objective(self.model, batch, train=True).loss
            loss.backward()  # type: ignore[no-untyped-call]
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize(self.runtime.device)
        del kept

    def _draw(self, size: int) -> Batch:
        """Return the first batch of this size, or of rows the longest ones; the position in the data stays."""
        batches = self.data.batches
        before, given_size = batches.state_dict(), batches.batch_size
        batches.batch_size = size
        try:
            draw: Callable[[], Batch] = batches.longest_batch if isinstance(batches, RowBatches) else self._next
            return draw()
        finally:
            batches.batch_size = given_size
            batches.load_state_dict(before)

    def _next(self) -> Batch:
        return self.data.batches.get_batch("train")


def _saved_size(start: RunStart, sequences: int) -> int | None:
    """Return the batch size of the checkpoint to resume if it was found for as many sequences; else None."""
    saved = (load_values(start.found.path).get("config") or {}) if start.found and not start.is_of_c_line else {}
    size, steps = saved.get("batch_size"), saved.get("gradient_accumulation_steps")
    if saved.get("auto_batch_size") is not True or not (isinstance(size, int) and isinstance(steps, int)):
        return None
    return size if size > 0 and size * steps == sequences else None


@contextmanager
def _silent() -> Iterator[None]:
    """Inside, only errors are logged, and nothing is printed: what is made twice is reported once."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


def _free(device: torch.device) -> None:
    """Give the memory of objects that are gone back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
