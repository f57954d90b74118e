"""How a run starts: from which checkpoint, if any, and in which folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core import (
    CheckpointError,
    CheckpointManager,
    ModelInitializer,
    Preemption,
    RunFolder,
    Runtime,
    load_checkpoint,
    where_to_start,
)
from core.callback import CallbackList
from core.checkpoint.checkpointer import require_loadable
from core.checkpoint.format import is_folder, load_values
from core.checkpoint.resume import complete, require_finite_moments, restarted
from core.checkpoint.search import CheckpointFile
from core.files import kind_of
from extras.hugging_face import c_line_checkpoint
from extras.hugging_face.loading import PREFIX as HUGGING_FACE
from wiring.lora import tokenizer_of

if TYPE_CHECKING:
    from config.options import Options
    from wiring.data import RunData


class RunStart(NamedTuple):
    """How a run starts.

    init_from: `scratch`, `resume`, or the name of a GPT-2
    found:     the checkpoint to resume; None for a fresh start
    folder:    the run folder
    """

    init_from: str
    found: CheckpointFile | None
    folder: RunFolder

    def read_checkpoint(self) -> dict[str, Any] | None:
        """Return the checkpoint that the run resumes, read anew and completed; None for a fresh start."""
        if self.found is None:
            return None
        if self.is_of_c_line:
            checkpoint = complete({**c_line_checkpoint.read_state(self.found.path), "tokenizer": self.tokenizer()})
            require_finite_moments(checkpoint["optimizer"])
            return checkpoint
        is_verified = self.found.manifest is not None
        checkpoint = complete(load_checkpoint(self.found.path, check=not is_verified))
        if not is_verified:
            require_finite_moments(checkpoint["optimizer"])
        return checkpoint

    def tokenizer(self) -> dict[str, Any] | None:
        """Return what the token ids of the checkpoint to resume stand for (see `core.checkpoint.format`)."""
        if self.is_of_c_line:
            return tokenizer_of(self.model_name)
        return None if self.found is None else load_values(self.found.path).get("tokenizer")

    @property
    def is_of_c_line(self) -> bool:
        """Whether the run resumes a checkpoint of the C line, whose weights are loaded as those of `hf:FOLDER`."""
        return self.found is not None and c_line_checkpoint.is_c_line(self.found.path)

    @property
    def model_name(self) -> str:
        """`init_from`, or `hf:FOLDER` for a checkpoint of the C line."""
        return f"{HUGGING_FACE}{self.found.path}" if self.found and self.is_of_c_line else self.init_from

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The manifest of the checkpoint that the run resumes, if it has one."""
        return self.found.manifest if self.found else None


def find_start(options: Options, runtime: Runtime, checkpoints: CheckpointManager) -> RunStart:
    """Return how the run starts; its folder, if it exists, is locked from here on. ConfigError for an unknown start"""
    folder = RunFolder(options.out_dir)
    runtime.at_exit(folder.release)
    # torchrun counts restarts on each node alone, and does not count those after a node has joined or left
    is_restarted = runtime.is_true_on_any_rank(runtime.follows_earlier_group or restarted())

    def look() -> tuple[str, CheckpointFile | None]:
        if folder.path.is_dir() and not options.eval_only:  # an evaluation writes nothing
            folder.claim(wait_s=30 if is_restarted else 0)
        if options.init_from == "resume" and options.ckpt_filename:
            return "resume", _named_checkpoint(Path(options.out_dir, options.ckpt_filename))
        if options.init_from in ("resume", "auto") and (theirs := c_line_checkpoint.newest(Path(options.out_dir))):
            return "resume", CheckpointFile(theirs, None)
        init_from, found = where_to_start(options.init_from, checkpoints, is_restarted)
        if init_from not in ("scratch", "resume") and not init_from.startswith(HUGGING_FACE):
            ModelInitializer.require_pretrained(init_from)
        return init_from, found

    return RunStart(*runtime.on_master(look), folder)


def enter_folder(
    options: Options,
    runtime: Runtime,
    preemption: Preemption,
    data: RunData,
    checkpoints: CheckpointManager,
    start: RunStart,
    needed: Sequence[Path | None] = (),
    callbacks: Sequence[Any] = (),
) -> None:
    """Make the run's folder; a fresh start moves a previous run's files away as soon as there is data.

    callbacks: of the user; ConfigError if a checkpoint could not hold the state of one
    needed: files of other runs that this run may read again; ConfigError if they are among those moved
    """
    with suppress(AttributeError):  # a state that begins with training is looked at there
        require_loadable({"callbacks": CallbackList(callbacks).state_dict()})  # before a previous run's files are moved
    if start.found is None and runtime.world_size == 1:
        preemption.run_before_training(data.wait)

    def enter() -> None:
        if options.eval_only:
            return
        start.folder.claim()
        if start.found:
            checkpoints.relink(start.found)
        else:
            start.folder.move_previous_run([file for file in needed if file])

    runtime.on_master(enter)


def _named_checkpoint(path: Path) -> CheckpointFile:
    if is_folder(path) or c_line_checkpoint.is_c_line(path):
        return CheckpointFile(path, None)
    if c_line_checkpoint.is_model(path):
        raise CheckpointError(
            f"{path} is a model without a state of training: begin with its weights, init_from=hf:{path}"
        )
    if kind := kind_of(path):
        raise CheckpointError(f"{path} is {kind}: ckpt_filename is the name of a file in out_dir, or None")
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: ckpt_filename is the name of a file in out_dir, or None")
    return CheckpointFile(path, None)
