"""The run on disk: weights, optimizer, and where every process is, put into checkpoints and taken out again."""

from __future__ import annotations

import copy
import io
import logging
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.batch import fingerprint, to_device
from core.checkpoint.find import save_checkpoint
from core.checkpoint.format import handle_state_dict_prefixes, load_checkpoint
from core.checkpoint.resume import launch_id, same_batches
from core.checkpoint.snapshot import Snapshot
from core.errors import CheckpointError, ConfigError
from core.optimizer import load_optimizer_state

if TYPE_CHECKING:
    from core.checkpoint.manager import CheckpointFile, CheckpointManager
    from core.checkpoint.save_schedule import SaveSchedule
    from core.parallel import Replicated
    from core.runtime import Runtime
    from core.stability.detector import InstabilityDetector
    from core.training_step import TrainingStep

log = logging.getLogger("coregpt")
State = dict[str, Any]


class Archive:
    """Writes checkpoints of the run as it is, and brings the model, the optimizer and every process back to one.

    raw_model:   the model itself, neither compiled nor wrapped; its weights are what is saved
    data:        where batches come from; saved as well if it has a `state_dict`
    remake:      `remake() -> (model, checkpoint or None)` makes the model that the run began with once more
    model_args, config: saved with every checkpoint, as nanoGPT does
    provenance:  versions, device, data: noted in every manifest
    in_background: checkpoints are written by a thread, from a copy; at most one at a time
    """

    def __init__(
        self,
        raw_model: Any,
        step: TrainingStep,
        runtime: Runtime,
        parallel: Replicated,
        checkpoints: CheckpointManager,
        saves: SaveSchedule,
        detector: InstabilityDetector,
        *,
        data: Any,
        remake: Callable[[], tuple[Any, State | None]],
        model_args: State,
        config: State,
        provenance: State,
        in_background: bool = False,
    ) -> None:
        self.raw_model = raw_model
        self.step = step
        self.runtime = runtime
        self.parallel = parallel
        self.checkpoints = checkpoints
        self.saves = saves
        self.detector = detector
        self.data = data
        self.remake = remake
        self.model_args = model_args
        self.config = config
        self.provenance = provenance
        self.snapshot = Snapshot() if in_background else None
        self.run_id = uuid.uuid4().hex  # stays with the run when it is resumed
        self.has_saved = False  # this process, this far
        self.failure: str | None = None  # why the last save failed, if it did
        self.origin: State = {}
        self.warned: set[str] = set()

    # where this process is

    def position(self) -> State:
        """Return where this process is in its random draws and its data: the batch drawn ahead, and its offsets."""
        states = {name: part.state_dict() for name, part in self._stateful().items()}
        states = {name: state for name, state in states.items() if state}
        return {"rng": self.runtime.rng_state(), "batch": self.step.batch, **states}

    def go_to(self, position: State) -> None:
        """Go on from where `position` was called, and drop what gradients there are."""
        self.step.optimizer.zero_grad(set_to_none=True)
        self.step.batch = to_device(position["batch"], self.runtime.device)
        self.runtime.set_rng_state(position["rng"])
        for name, part in self._stateful().items():
            if name in position:
                part.load_state_dict(position[name])

    def _stateful(self) -> State:
        """Return the parts of this process that are at some place: in their data, in their running means."""
        parts = {"data": self.data, "objective": self.step.objective}
        return {name: part for name, part in parts.items() if hasattr(part, "state_dict")}

    def _own_state(self) -> State:
        """Return what a checkpoint keeps of this process alone."""
        place = self.position()
        # other ranks are sent this: a tensor on a device would open the sender's device on all of them
        for name in {"batch", "objective"} & place.keys():
            place[name] = to_device(place[name], torch.device("cpu"))
        return {**place, "detector": self.detector.state_dict()}

    # writing

    def is_finite(self) -> bool:
        """Tell whether every number of the model and the optimizer is finite, on all ranks."""
        moments = [value for state in self.step.optimizer.state.values() for value in state.values()]
        tensors = [*self.raw_model.state_dict().values(), *(value for value in moments if torch.is_tensor(value))]
        sound = self.detector.check_parameter_stability(tensors)
        return not self.runtime.any_rank(self.runtime.flag(not sound).clone()).item()

    def save(self, state: State, notes: State, *, link: bool, wait: bool) -> Path | None:
        """Write a checkpoint; call it on every rank alike. Return its path; None if it failed or is still in flight.

        state: what the trainer adds: counters, and the state of its parts
        notes: what the trainer adds to the manifest
        link:  let nanoGPT's ckpt.pt be this one
        wait:  do not leave it to the background
        """
        ranks = self.runtime.gather(self._own_state())
        path, self.failure = self.runtime.on_master(lambda: self._write(state, notes, ranks, link, wait))
        if self.failure:
            self.saves.failed()
        else:
            self.saves.saved(state["iter_num"])
            self.has_saved = True
        return path

    def join(self) -> Path | None:
        """Wait for the checkpoint in flight, on every rank alike. Return its path if there was one and it is safe."""
        if self.snapshot is None:
            return None
        path, failure = self.runtime.on_master(lambda: self._attempt(self.checkpoints.join))
        if failure:
            self.failure = failure
            self.saves.failed()
        return path

    def close(self) -> None:
        """Wait for a checkpoint in flight when the run has failed: its folder is still ours."""
        self._attempt(self.checkpoints.join)

    def _write(
        self, state: State, notes: State, ranks: list[State], link: bool, wait: bool
    ) -> tuple[Path | None, str | None]:
        """Put the checkpoint together and on disk; on the master alone."""
        checkpoint = {
            **self.parallel.state_dict(self.raw_model, self.step.optimizer),
            "model_args": self.model_args,
            "iter_num": state["iter_num"],
            "best_val_loss": state["best_val_loss"],
            "config": self.config,
            **state,
            "scaler": self.step.scaler.state_dict(),
            "ranks": ranks,
            "run": self.run_id,
        }
        manifest = {
            **notes,
            "run": self.run_id,
            "launch": launch_id(),
            "batch": [fingerprint(rank["batch"]) for rank in ranks],
            **self.provenance,
            "saved": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if self.snapshot is not None:
            self._attempt(self.checkpoints.join)  # at most one is in flight, and the copy's memory is used again
            checkpoint = self.snapshot.take(checkpoint)
        wait = wait or self.snapshot is None
        return self._attempt(lambda: save_checkpoint(self.checkpoints, checkpoint, manifest, link=link, wait=wait))

    def _attempt(self, save: Callable[[], Path | None]) -> tuple[Path | None, str | None]:
        """Return what `save` returns, and why it failed, if it did: whatever the disk does, training goes on."""
        try:
            return save(), None
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            if cause not in self.warned:
                log.warning(f"a checkpoint could not be saved, training goes on and tries again ({cause})")
            self.warned.add(cause)
            return None, cause

    # going back

    def begin(self, state: State) -> None:
        """Note the state of the trainer at the beginning of the run, to come back to before there is a checkpoint."""
        if self.snapshot is not None:  # AdamW keeps two moments of every parameter
            sizes = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in self.raw_model.parameters()}
            self.snapshot.warm(size for size in sizes.values() for _ in range(3))
        _require_plain(state)
        fresh = {"state": {}, "param_groups": copy.deepcopy(self.step.optimizer.state_dict()["param_groups"])}
        own = {"scaler": self.step.scaler.state_dict(), "own": self._own_state(), "optimizer": fresh}
        self.origin = {**copy.deepcopy(state), **own}

    def go_back(self) -> tuple[State, str]:
        """Bring weights, optimizer and every process back to the last healthy checkpoint, or to the beginning.

        Return what the trainer put into it, and its name.
        """
        self.join()
        found = self.runtime.on_master(self._newest_healthy)
        if found is None:
            fresh, checkpoint = self.remake()
            model, optimizer = fresh.state_dict(), (checkpoint or {}).get("optimizer")
            state, name = copy.deepcopy(self.origin), "the beginning"
            own = state["own"]
        else:
            state = load_checkpoint(found.path, check=False)
            model, optimizer = state["model"], state["optimizer"]
            own, name = state["ranks"][self.runtime.rank], found.path.name
        self.raw_model.load_state_dict(handle_state_dict_prefixes(model, like=self.raw_model.state_dict()))
        self.parallel.broadcast_parameters(self.raw_model)  # each rank has made its own
        load_optimizer_state(self.step.optimizer, optimizer or self.origin["optimizer"])
        if state["scaler"]:
            self.step.scaler.load_state_dict(state["scaler"])
        self.saves.saved_at = state["iter_num"] if found else None
        self.failure = None
        self.detector.load_state_dict(own["detector"])
        self.go_to(own)
        return state, name

    def _newest_healthy(self) -> CheckpointFile | None:
        """Return the newest healthy checkpoint if this process has made one; on the master alone."""
        found = self.checkpoints.load_healthy() if self.has_saved else None
        return found if found and (found.manifest or {}).get("world_size") == self.runtime.world_size else None

    def resume(self, checkpoint: State, manifest: State | None) -> str | None:
        """Go on from this process's place in a checkpoint whose weights and optimizer are loaded.

        Return why that is not possible, if it is not. Raises CheckpointError when the batch that comes next is not the
        one that the manifest names.
        """
        self.run_id = checkpoint.get("run", self.run_id)
        ranks, world = checkpoint.get("ranks", []), self.runtime.world_size
        if len(ranks) != world:
            if "objective" in checkpoint:  # a converted one, which has no ranks
                self.step.objective.load_state_dict(checkpoint["objective"])
            return f"{len(ranks)} random states, wanted {world}" if ranks else "no random state"
        own = ranks[self.runtime.rank]
        if "data" in own and hasattr(self.data, "state_dict") and own["data"].keys() != self.data.state_dict().keys():
            return "its place in another kind of data"
        if not same_batches(checkpoint.get("config") or {}, self.config):
            own = {**own, "batch": None}  # a fitting one is drawn
        elif manifest and fingerprint(own["batch"]) != manifest["batch"][self.runtime.rank]:
            raise CheckpointError(
                f"{manifest['file']}: the batch that waits in it is not the one its manifest names; "
                "resume from another copy, or with --resume_rng=reseed"
            )
        if checkpoint["scaler"]:  # empty where the saved run did not scale its loss
            self.step.scaler.load_state_dict(checkpoint["scaler"])
        if "detector" in own:
            self.detector.load_state_dict(own["detector"])
        self.go_to(own)
        self.saves.saved(checkpoint["iter_num"])
        return None


def _require_plain(state: State) -> None:
    """Raise ConfigError where a checkpoint could not be read again because of what a callback or logger keeps in it."""
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
