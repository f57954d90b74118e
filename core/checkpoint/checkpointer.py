"""Saves a run in checkpoints, and restores it from them: weights, optimizer, and the position of every rank."""

from __future__ import annotations

import copy
import io
import json
import logging
import math
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from core import files
from core.batch import Batch, fingerprint, is_for_model, to_device
from core.checkpoint.format import CHECKPOINT, arrange
from core.checkpoint.provenance import differences
from core.checkpoint.resume import (
    NOTHING_MEASURED,
    changed_options,
    has_other_data,
    launch_id,
    resume_command,
    same_batches,
)
from core.checkpoint.snapshot import Snapshot
from core.checkpoint.writer import TorchFile
from core.errors import CheckpointError, ConfigError, SaveError, WarnOnce
from core.model_initializer import LoadedModel
from core.optimizer import moments
from core.stability.detector import NOT_FINITE

if TYPE_CHECKING:
    from core.checkpoint.manager import CheckpointManager
    from core.checkpoint.save_schedule import SaveSchedule
    from core.checkpoint.search import CheckpointFile
    from core.runtime import Runtime
    from core.stability.detector import InstabilityDetector
    from core.training_step import TrainingStep

log = logging.getLogger("coregpt")
State = dict[str, Any]
MakeModel = Callable[[], tuple[LoadedModel, State | None]]  # with the checkpoint that the model comes from, if any


class RunNotes(NamedTuple):
    """What every checkpoint of a run says about it.

    model_args, config: as nanoGPT saves them
    provenance:         versions, device, data set: for manifests, see `core.checkpoint.provenance`
    tokenizer:          what the token ids stand for, see `core.checkpoint.format`
    """

    model_args: State = {}
    config: State = {}
    provenance: State = {}
    tokenizer: State | None = None


class Checkpointer:
    """Owns what a checkpoint holds (`core.checkpoint.format`), its schedule, and every restore and rollback.

    A checkpoint is due after evaluations (`Trainer.save_evaluated`), by interval, clock or request (`SaveSchedule`),
    and at the end (`Trainer.save_final`). All methods are called on every rank alike; rank 0 writes.

    raw_model:  neither compiled nor wrapped; its weights are saved
    data:       the data source; saved as well if it has a `state_dict`
    make_model: makes the model that this process started with, for a rollback before its first checkpoint; by default
                a copy of `raw_model` is kept for it
    in_background: a thread writes checkpoints from a copy, one at a time
    """

    def __init__(
        self,
        raw_model: Any,
        step: TrainingStep,
        runtime: Runtime,
        checkpoints: CheckpointManager,
        schedule: SaveSchedule,
        detector: InstabilityDetector,
        *,
        make_model: MakeModel | None = None,
        data: Any = None,
        notes: RunNotes | None = None,
        writer: TorchFile | None = None,
        in_background: bool = False,
    ) -> None:
        self.raw_model = raw_model
        self.step = step
        self.runtime = runtime
        self.parallel = step.parallel
        self.checkpoints = checkpoints
        self.schedule = schedule
        self.detector = detector
        self.data = data
        self.make_model = make_model
        self.notes = notes or RunNotes()
        self.writer = writer or TorchFile()
        self.snapshot = Snapshot() if in_background else None
        self.run_id = uuid.uuid4().hex  # an exact resume keeps it
        self.has_saved = False  # by this process
        self.has_resumed = False
        self.failure: str | None = None  # why the last save failed; None if it succeeded
        self.is_rolling_back = False  # weights, moments and states of callbacks may be of two iterations
        self.given_positions: list[State] = []  # of all ranks, where they cannot be gathered any more
        self.go_on: str | None = None  # how to go on, where no command can
        self._beginning: State = {}
        self._warn = WarnOnce()

    # the position of this rank

    def position(self) -> State:
        """Return this rank's random state, the batch drawn ahead, and the states of data source, objective, detector.

        Nothing waits for the device.
        """
        states = {name: part.state_dict() for name, part in self._stateful_parts().items()}
        states = {name: _copy(state) for name, state in states.items() if state}
        detector = self.detector.snapshot()
        return {"rng": self.runtime.rng_state(), "batch": self.step.batch, **states, "detector": detector}

    def restore_position(self, position: State) -> None:
        """Go back to what `position` returned, and drop all gradients."""
        self.step.optimizer.zero_grad(set_to_none=True)
        self.step.batch = to_device(position["batch"], self.runtime.device)
        self.runtime.set_rng_state(position["rng"])
        for name, part in {**self._stateful_parts(), "detector": self.detector}.items():
            if name in position:
                part.load_state_dict(position[name])

    def _stateful_parts(self) -> State:
        parts = {"data": self.data, "objective": self.step.objective}
        return {name: part for name, part in parts.items() if hasattr(part, "state_dict")}

    def saved_position(self, position: State | None = None) -> State:
        """Return a position, by default the present one, as a checkpoint keeps it: see `core.checkpoint.format`."""
        position = self.position() if position is None else dict(position)
        # ranks send this to each other: a tensor on a device would open the sender's device on all of them
        for name in {"batch", "objective"} & position.keys():
            position[name] = to_device(position[name], torch.device("cpu"))
        return {**position, "detector": self.detector.state_dict(position["detector"])}

    # saving

    def request_save(self) -> None:
        """Ask for a checkpoint at the next place where one may be written."""
        self.schedule.request()
        self.schedule.is_agreed |= self.runtime.world_size == 1

    def is_finite(self) -> bool:
        """Return whether all weights and moments are finite, on all ranks."""
        tensors = [*self.raw_model.state_dict().values(), *moments(self.step.optimizer)]
        is_finite = self.detector.check_parameter_stability(tensors)
        return not self.runtime.is_true_on_any_rank(not is_finite)

    def refuse(self) -> None:
        """Record that weights or moments are not finite, so that no checkpoint is written."""
        self.failure = NOT_FINITE
        self.schedule.dropped()

    def save(self, state: State, notes: State, *, link: bool) -> Path | None:
        """Write a checkpoint. Return its path; None if the save failed (see `failure`) or goes on in the background.

        state: of the trainer: counters, and the states of its parts
        notes: what the trainer adds to the manifest
        link:  make nanoGPT's ckpt.pt a second name of it
        """
        positions = self.given_positions or self.runtime.gather(self.saved_position())
        checkpoint = arrange(
            CHECKPOINT,
            {
                **self.parallel.state_dict(self.raw_model, self.step.optimizer),
                **state,
                "model_args": self.notes.model_args,
                "config": self.notes.config,
                "tokenizer": self.notes.tokenizer,
                "scaler": self.step.scaler.state_dict(),
                "ranks": positions,
                "run": self.run_id,
            },
        )
        manifest = {
            **notes,
            "run": self.run_id,
            "launch": launch_id(),
            "batch": [fingerprint(position["batch"]) for position in positions],
            "data_position": [_as_json(position.get("data")) for position in positions],
            **self.notes.provenance,
            "saved": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        checkpoint = self.writer.gather(checkpoint)
        path, self.failure = self.runtime.on_master(lambda: self._write(checkpoint, manifest, link))
        if self.failure:
            self.schedule.failed()
        else:
            self.schedule.saved(state["iter_num"])
            self.has_saved = True
        return path

    def join(self) -> Path | None:
        """Wait for a save in the background. Return its path if there was one and it succeeded."""
        if self.snapshot is None:
            return None
        path, failure = self.runtime.on_master(lambda: self._attempt(self.checkpoints.join))
        if failure:
            self.failure = failure
            self.schedule.failed()
        return path

    @property
    def kept(self) -> str:
        """The end of a message about a run that stops: whether there is a checkpoint."""
        has_one = self.has_saved or self.has_resumed
        return ", the last checkpoint is untouched" if has_one else ", no checkpoint was saved yet"

    def raise_if_failed(self) -> None:
        """Raise SaveError if the last save failed."""
        if self.failure:
            raise SaveError(f"the last checkpoint could not be saved in {self.checkpoints.out_dir}: {self.failure}")

    def resume_command(self) -> str:
        """Return the command that goes on from the newest checkpoint; with parts from Python, what to do there."""
        return self.go_on or resume_command(self.checkpoints.out_dir, self.runtime.world_size)

    def close(self) -> None:
        """Wait for a save in the background; called when the program ends, whatever ends it."""
        self._attempt(self.checkpoints.join)

    def _write(self, checkpoint: State, manifest: State, link: bool) -> tuple[Path | None, str | None]:
        if self.snapshot is not None:
            self._attempt(self.checkpoints.join)  # it reads the snapshot, which is about to be overwritten
            checkpoint = self.snapshot.take(checkpoint)
        return self._attempt(
            lambda: self.checkpoints.save(
                lambda path: self.writer.write(checkpoint, path),
                manifest,
                link=link,
                wait=self.snapshot is None,
                suffix=self.writer.suffix,
            )
        )

    def _attempt(self, save: Callable[[], Path | None]) -> tuple[Path | None, str | None]:
        """Return the result of `save`, and why it failed, or None: training goes on after a disk error."""
        try:
            return save(), None
        except Exception as error:
            cause = files.reason(error)
            failure = cause + files.room_left(error, self.checkpoints.folder)
            self._warn(f"{self.checkpoints.out_dir}: a checkpoint could not be saved ({failure})", cause)
            return None, failure

    # rolling back

    def begin(self, state: State) -> None:
        """Keep the state of the trainer at the start of this process, for a rollback before its first checkpoint.

        Raises ConfigError if a callback's or logger's state could not be loaded again.
        """
        if self.snapshot is not None:
            copies = 1 if isinstance(self.step.optimizer, torch.optim.Adafactor) else 3  # AdamW keeps two moments
            sizes = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in self.raw_model.parameters()}
            self.snapshot.warm(size for size in sizes.values() for _ in range(copies))
        require_loadable(state)
        optimizer = self.step.optimizer.state_dict()
        if self.make_model is None:  # nor can the moments of a resumed run be read again
            self.make_model, kept = _copy_maker(self.raw_model), copy.deepcopy(optimizer)
        else:
            kept = _without_moments(optimizer)
        self._beginning = {
            **copy.deepcopy(state),
            "scaler": self.step.scaler.state_dict(),
            "position": self.saved_position(),
            "optimizer": kept,
        }

    def roll_back(self) -> tuple[State, str]:
        """Restore weights, optimizer and every rank from the last healthy checkpoint, or where this process started.

        A checkpoint counts if this process has saved any, and if it is of as many processes.

        Returns the state of the trainer that belongs to it, and what to call it in a message.
        """
        self.join()
        found = self.runtime.on_master(self._newest_healthy)
        if found is None:
            state, name = copy.deepcopy(self._beginning), "where this process started"
            assert self.make_model is not None  # since `begin`
            (model, _), checkpoint = self.make_model()
            optimizer = (checkpoint or {}).get("optimizer") or self._beginning["optimizer"]
            weights, position = model.state_dict(), state["position"]
        else:
            state, name = self.writer.read(found.path), found.path.name
            weights, optimizer, position = state["model"], state["optimizer"], state["ranks"][self.runtime.rank]
        self.parallel.load_state_dict(self.raw_model, self.step.optimizer, {"model": weights, "optimizer": optimizer})
        if state["scaler"]:
            self.step.scaler.load_state_dict(state["scaler"])
        self.schedule.rolled_back(state["iter_num"] if found else None)
        self.failure = None
        self.restore_position(position)
        return state, name

    def _newest_healthy(self) -> CheckpointFile | None:
        """Return the newest healthy checkpoint if this process has written any; on rank 0 only."""
        found = self.checkpoints.load_healthy() if self.has_saved else None
        return found if found and (found.manifest or {}).get("world_size") == self.runtime.world_size else None

    # resuming

    def resume(self, checkpoint: State, manifest: State | None, exact: bool) -> tuple[State, bool]:
        """Go on from a checkpoint whose weights and optimizer are loaded.

        exact: restore this rank's position. A checkpoint without one is continued as nanoGPT does: with other batches

        Returns the state of the trainer that belongs to it, and whether the same batches follow. Raises CheckpointError
        if the batch in the checkpoint is not the one that its manifest names.
        """
        self.has_resumed = True
        saved, given = checkpoint.get("config") or {}, self.notes.config
        if changes := changed_options(saved, given):
            log.info(f"resume: the options differ from the checkpoint's: {changes}")
        is_other = has_other_data(saved, manifest, given, self.notes.provenance.get("data_fingerprint"))
        if is_other:
            log.info(
                "resume: the data are not those of the checkpoint; the best loss is reset, as it was measured on them"
            )
        is_exact = exact and self._restore_exactly(checkpoint, manifest, is_other)
        return {**checkpoint, **NOTHING_MEASURED} if is_other else checkpoint, is_exact

    def _restore_exactly(self, checkpoint: State, manifest: State | None, has_other_data: bool) -> bool:
        """Restore this rank's position, and say how exact that is. Return whether the same batches follow."""
        if obstacle := self._restore_saved_position(checkpoint, manifest, has_other_data):
            exact_parts = "weights, optimizer and counters" if checkpoint.get("optimizer") else "weights and counters"
            log.info(
                f"resume: the checkpoint has {obstacle}; {exact_parts} are exact, but other batches follow, as with "
                "--resume_rng=reseed"
            )
            return False
        if manifest is not None:
            place = f"iteration {checkpoint['iter_num']} from {manifest['file']}"
            log.info(f"resume: {place}, checksum and next batch verified")
            if changes := differences(manifest, self.notes.provenance):
                log.info(
                    f"resume: not where it was saved ({changes}): the last bits of the losses may differ from here on"
                )
        options = self.notes.config
        epochs, last = options.get("num_epochs"), options.get("max_iters", math.inf)
        if checkpoint["iter_num"] > last and not options.get("eval_only"):
            name, end = ("num_epochs", f" (num_epochs={epochs})") if epochs else ("max_iters", ", its max_iters")
            log.info(
                f"nothing to do: the run has finished with iteration {last:g}{end}; to go on, give the run's config "
                f"and a larger {name}"
            )
        return True

    def _restore_saved_position(self, checkpoint: State, manifest: State | None, has_other_data: bool) -> str | None:
        """Restore this rank's position in a checkpoint. Return what the checkpoint has instead of a usable one."""
        self.run_id = checkpoint["run"] if isinstance(checkpoint.get("run"), str) else self.run_id
        positions, world_size = checkpoint.get("ranks", []), self.runtime.world_size
        if len(positions) != world_size:
            if "objective" in checkpoint:  # a converted checkpoint
                self.step.objective.load_state_dict(checkpoint["objective"])
            return f"{len(positions)} random states, wanted {world_size}" if positions else "no random state"
        own = positions[self.runtime.rank]
        if "data" in own and hasattr(self.data, "state_dict") and own["data"].keys() != self.data.state_dict().keys():
            return "its place in another kind of data"
        if manifest is None and not self._can_train_on(own["batch"]):
            return "a waiting batch that is not for this model"
        if has_other_data or not same_batches(checkpoint.get("config") or {}, self.notes.config):
            own = {**own, "batch": None}  # one of the new data or shape is drawn
        elif manifest and fingerprint(own["batch"]) != manifest["batch"][self.runtime.rank]:
            raise CheckpointError(
                f"{manifest['file']}: the batch that waits in it is not the one its manifest names; "
                "resume from another copy, or with --resume_rng=reseed"
            )
        if checkpoint["scaler"]:  # empty if the saved run did not scale its loss
            self.step.scaler.load_state_dict(checkpoint["scaler"])
        self.restore_position(own)
        self.schedule.saved(checkpoint["iter_num"])
        return None

    def _can_train_on(self, batch: Batch) -> bool:
        """Return whether a waiting batch that no manifest vouches for fits the model and the objective."""
        return batch is None or (is_for_model(batch, self.notes.model_args) and self.step.objective.takes(batch))


def _copy_maker(model: Any) -> MakeModel:
    """Return a function that makes the model as it is now, each time from one copy in memory."""
    kept = LoadedModel(copy.deepcopy(model), {}), None
    return lambda: kept


def _copy(state: Any) -> Any:
    """Return a copy of a state, which its part may change in place."""
    try:
        return copy.deepcopy(state)
    except Exception:  # then it cannot be saved either, and the save says so
        return state


def _without_moments(optimizer: State) -> State:
    """Return an optimizer's state as it was before the first update."""
    if "optimizers" in optimizer:
        return {"optimizers": [_without_moments(part) for part in optimizer["optimizers"]]}
    return {"state": {}, "param_groups": copy.deepcopy(optimizer["param_groups"])}


def _as_json(state: Any) -> Any:
    """Return a state if JSON can hold it, else None."""
    try:
        json.dumps(state)
    except (TypeError, ValueError):
        return None
    return state


def require_loadable(state: State) -> None:
    """Raise ConfigError if a checkpoint with this state of callbacks and loggers could not be loaded again."""
    for place in ("callbacks", "loggers"):
        for name, kept in state.get(place, {}).items():
            buffer = io.BytesIO()
            try:
                torch.save(kept, buffer)
                buffer.seek(0)
                torch.load(buffer, weights_only=True)
            except Exception as error:
                raise ConfigError(
                    f"{name}.state_dict() holds more than tensors and plain Python values, so that checkpoints with it "
                    f"could not be loaded: convert what is in it ({' '.join(str(error).split())[:200]})"
                ) from None
