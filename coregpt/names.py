"""What `coregpt` exports: training and loading, the options, and the parts of a run that users subclass or hand in."""

import core
from config.options import Options, SampleOptions
from core.names import *  # noqa: F403
from coregpt.trained import Trained, load
from coregpt.training import Result, options, train
from extras.early_stopping import EarlyStopping
from extras.ema import EMA
from model import GPT, GPTConfig

__all__ = [
    *core.__all__,
    "EMA",
    "EarlyStopping",
    "GPT",
    "GPTConfig",
    "Options",
    "Result",
    "SampleOptions",
    "Trained",
    "load",
    "options",
    "train",
]
