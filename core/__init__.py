"""The parts of the training loop. They import torch and the standard library, and nothing else of ours."""

from core.callback import Callback
from core.checkpoint_manager import CheckpointManager, handle_state_dict_prefixes, load_checkpoint
from core.errors import CheckpointError, ConfigError, CoreGPTError, DataError, DivergedError, exit_on_error
from core.evaluator import Evaluator
from core.instability_detector import InstabilityDetector
from core.logger import CompositeLogger, ConsoleLogger, JsonlLogger, Logger, WandBLogger
from core.model_initializer import ModelInitializer
from core.objective import LanguageModeling, Objective, Output
from core.optimizer import load_optimizer_state
from core.parallel import Replicated
from core.runtime import Runtime
from core.scheduler import CosineLRScheduler, LRScheduler
from core.trainer import Trainer
from core.training_step import StepResult, TrainingStep

__all__ = [
    "Callback",
    "CheckpointError",
    "CheckpointManager",
    "CompositeLogger",
    "ConfigError",
    "ConsoleLogger",
    "CoreGPTError",
    "CosineLRScheduler",
    "DataError",
    "DivergedError",
    "Evaluator",
    "InstabilityDetector",
    "JsonlLogger",
    "LRScheduler",
    "LanguageModeling",
    "Logger",
    "ModelInitializer",
    "Objective",
    "Output",
    "Replicated",
    "Runtime",
    "StepResult",
    "Trainer",
    "TrainingStep",
    "WandBLogger",
    "exit_on_error",
    "handle_state_dict_prefixes",
    "load_checkpoint",
    "load_optimizer_state",
]
