"""What `core` exports: its parts by their names, each from the file where it lives."""

from core.callback import Callback
from core.checkpoint import provenance
from core.checkpoint.checkpointer import Checkpointer, RunNotes
from core.checkpoint.find import find_checkpoint, find_latest_checkpoint, reload_from_latest, save_checkpoint
from core.checkpoint.format import handle_state_dict_prefixes, load_checkpoint
from core.checkpoint.manager import CheckpointManager
from core.checkpoint.resume import where_to_start
from core.checkpoint.run_folder import RunFolder
from core.checkpoint.save_schedule import SaveSchedule
from core.errors import (
    CheckpointError,
    ConfigError,
    CoreGPTError,
    DataError,
    DivergedError,
    GroupError,
    PreemptedError,
    SaveError,
    exit_on_error,
)
from core.evaluator import Evaluator
from core.logger import CompositeLogger, ConsoleLogger, JsonlLogger, Logger, WandBLogger
from core.machine.parallel import Replicated
from core.model_initializer import LoadedModel, ModelInitializer
from core.objective import LanguageModeling, Meter, Objective, Output
from core.optimizer import load_optimizer_state
from core.preemption import Interrupted, Preemption
from core.runtime import Runtime
from core.scheduler import (
    ConstantLRScheduler,
    CosineLRScheduler,
    InverseSqrtLRScheduler,
    LinearLRScheduler,
    LRScheduler,
    StepLRScheduler,
    WSDLRScheduler,
)
from core.stability.detector import InstabilityDetector
from core.stability.diagnosis import Diagnosis
from core.stability.flags import RankFlags
from core.stability.monitor import StabilityMonitor
from core.stability.recovery import Recovery
from core.trainer import LoopNumbers, Trainer
from core.training_step import StepResult, TrainingStep

__all__ = [
    "Callback",
    "CheckpointError",
    "CheckpointManager",
    "Checkpointer",
    "CompositeLogger",
    "ConfigError",
    "ConsoleLogger",
    "ConstantLRScheduler",
    "CoreGPTError",
    "CosineLRScheduler",
    "DataError",
    "Diagnosis",
    "DivergedError",
    "Evaluator",
    "GroupError",
    "InstabilityDetector",
    "Interrupted",
    "InverseSqrtLRScheduler",
    "JsonlLogger",
    "LRScheduler",
    "LanguageModeling",
    "LinearLRScheduler",
    "LoadedModel",
    "Logger",
    "LoopNumbers",
    "Meter",
    "ModelInitializer",
    "Objective",
    "Output",
    "PreemptedError",
    "Preemption",
    "RankFlags",
    "Recovery",
    "Replicated",
    "RunFolder",
    "RunNotes",
    "Runtime",
    "SaveError",
    "SaveSchedule",
    "StabilityMonitor",
    "StepLRScheduler",
    "StepResult",
    "Trainer",
    "TrainingStep",
    "WSDLRScheduler",
    "WandBLogger",
    "exit_on_error",
    "find_checkpoint",
    "find_latest_checkpoint",
    "handle_state_dict_prefixes",
    "load_checkpoint",
    "load_optimizer_state",
    "provenance",
    "reload_from_latest",
    "save_checkpoint",
    "where_to_start",
]
