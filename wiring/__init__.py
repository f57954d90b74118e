"""Turns the options into parts. train.py and sample.py call these functions in the order in which things happen."""

from wiring.callbacks_file import user_callbacks
from wiring.checkpoints import make_checkpointer, make_monitor
from wiring.data import RunData
from wiring.given_parts import NOTHING_GIVEN, GivenParts, given_callbacks
from wiring.loop import evaluation_settings, make_parallel, runtime_settings, step_settings
from wiring.model import check_task, find_transfer_source, make_initializer, model_maker
from wiring.objective import make_objective
from wiring.optimizer import make_optimizer, non_cosine_schedule
from wiring.run_options import read_options
from wiring.sizes.batch_size import open_fitting_data
from wiring.sizes.run_length import with_run_length
from wiring.start import RunStart, enter_folder, find_start
from wiring.watchers import callbacks, console, loggers, print_header

__all__ = [
    "GivenParts",
    "NOTHING_GIVEN",
    "RunData",
    "RunStart",
    "callbacks",
    "check_task",
    "console",
    "enter_folder",
    "evaluation_settings",
    "find_start",
    "find_transfer_source",
    "given_callbacks",
    "loggers",
    "make_checkpointer",
    "make_initializer",
    "make_monitor",
    "make_objective",
    "make_optimizer",
    "make_parallel",
    "model_maker",
    "non_cosine_schedule",
    "open_fitting_data",
    "print_header",
    "read_options",
    "runtime_settings",
    "step_settings",
    "user_callbacks",
    "with_run_length",
]
