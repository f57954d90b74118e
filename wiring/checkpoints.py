"""How a run is kept: its checkpointer, and the monitor of its stability."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core import (
    Checkpointer,
    CheckpointManager,
    Diagnosis,
    InstabilityDetector,
    RankFlags,
    Recovery,
    RunNotes,
    Runtime,
    SaveSchedule,
    StabilityMonitor,
    TrainingStep,
    provenance,
)
from core.checkpoint.run_folder import CONFIG_MARK
from core.checkpoint.writer import TorchFile
from data.token_meaning import storable
from data.tokenizers import tokenizer_from_meta
from extras.hugging_face.checkpoint_folder import CheckpointFolder
from extras.hugging_face.model import HuggingFaceModel
from extras.hugging_face.processor import preprocessor_of
from wiring.lora import adapter_of

if TYPE_CHECKING:
    from config.options import Options
    from core.checkpoint.checkpointer import MakeModel
    from wiring.data import RunData


def make_checkpointer(
    options: Options,
    runtime: Runtime,
    data: RunData,
    raw_model: Any,
    model_args: dict[str, Any],
    make_model: MakeModel,
    step: TrainingStep,
    checkpoints: CheckpointManager,
    detector: InstabilityDetector,
) -> Checkpointer:
    """Return what saves the run and restores it."""
    meta = {"meta": data.vocabulary.meta()} if data.vocabulary is not None else {}
    from_model = {name: model_args[name] for name in options.FROM_MODEL if name in model_args}
    made_with = provenance.describe(runtime.device, runtime.world_size)
    notes = RunNotes(
        model_args=model_args,
        config={**options.model_dump(), **from_model, **meta},
        tokenizer=storable(data.source.meta),
        provenance={**made_with, "data_fingerprint": str(data.source.fingerprint())},
    )
    checkpointer = Checkpointer(
        raw_model,
        step,
        runtime,
        checkpoints,
        SaveSchedule(options.save_interval, options.save_minutes),
        detector,
        data=data.batches,
        make_model=make_model,
        notes=notes,
        writer=make_writer(options, data, raw_model, model_args),
        in_background=options.async_save,
    )
    runtime.at_exit(checkpointer.close)
    return checkpointer


def make_writer(options: Options, data: RunData, model: Any, model_args: dict[str, Any]) -> TorchFile | None:
    """Return what writes the checkpoints as folders, for models of transformers and for adapters; else None."""
    adapter = adapter_of({"model_args": model_args})
    if not isinstance(model, HuggingFaceModel) and adapter is None:
        return None
    tokenizer = None if data.source.meta is None else tokenizer_from_meta(data.source.meta)
    theirs = None if tokenizer is None else preprocessor_of(tokenizer, model.config.block_size)
    return CheckpointFolder(model, adapter, theirs, options.as_yaml(f"{CONFIG_MARK}: the options of the run"))


def make_monitor(
    options: Options, runtime: Runtime, raw_model: Any, step: TrainingStep, detector: InstabilityDetector
) -> StabilityMonitor:
    """Return what watches every update and decides about unstable ones."""
    recovery = Recovery(**options.pick("on_instability", "max_recoveries", "recovery_skip", "recovery_lr_factor"))
    diagnosis = Diagnosis(raw_model, step.objective, runtime.autocast, runtime.gather)
    return StabilityMonitor(detector, recovery, RankFlags(runtime.device, runtime.any_rank), diagnosis)
