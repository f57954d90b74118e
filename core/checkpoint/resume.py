"""Where a run starts, and what changes for a run that resumes."""

import logging
import math
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from core.checkpoint.manager import CheckpointFile, CheckpointManager
from core.checkpoint.manifest import FutureFormatError, UnreadableError
from core.commands import command
from core.errors import CheckpointError, CoreGPTError
from core.files import reason

log = logging.getLogger("coregpt")
LONGEST = 300  # characters of an option in a message; of a run's stages, a beginning
NEW_RUN_LOSS = 1e9  # nanoGPT's best_val_loss before the first evaluation

# on resume these follow the checkpoint: the shape is the weights', the rest is part of the optimizer's state
STAY_AS_SAVED = {"n_layer", "n_head", "n_embd", "bias", "attention_type", "position_encoding", "activation"}
STAY_AS_SAVED |= {"weight_decay", "beta1", "beta2"}
SHAPE_OF_BATCHES = ("batch_size", "block_size")  # a batch drawn with others does not fit
# losses on other data say nothing about these: the next evaluation is the first
NOTHING_MEASURED = {"best_val_loss": NEW_RUN_LOSS, "lowest_val_loss": math.inf, "evaluated_at": None}
# what a checkpoint may lack, and what a resume does without it
WITHOUT = {
    "optimizer": "its moments start at zero",
    "iter_num": "the count starts at iteration 0",
    "best_val_loss": "the next evaluation counts as the best",
}
# how a run is started, and the special ids of its vocabulary, which have a check of their own
MOST_SKIPPED = 10**5  # updates at one iteration, whose batches a rollback skips
NOT_COMPARED = ("init_from", "out_dir", "resume_rng", "meta")


def launch_id() -> str | None:
    """Return torchrun's id of this launch, the same after each of its restarts; None without one."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return None if name == "none" else name


def restarted() -> bool:
    """Return whether torchrun has restarted this process, or another one on this node, because one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def where_to_start(
    init_from: str, checkpoints: CheckpointManager, is_restarted: bool = False
) -> tuple[str, CheckpointFile | None]:
    """Return how a run starts: `resume` and its checkpoint, or a fresh `init_from` and None.

    `auto` resumes if there is a good checkpoint, else it starts from scratch. Raises CheckpointError if `resume` finds
    no good checkpoint.

    is_restarted: torchrun has restarted this group, which then resumes what the same launch has saved
    """
    if init_from == "resume":
        return "resume", checkpoints.load()
    if init_from == "auto" or is_restarted:
        try:
            found = checkpoints.load()
        except (FutureFormatError, UnreadableError):
            raise  # there are checkpoints, and a fresh start would move them away
        except CheckpointError as error:
            log.info(f"init_from={init_from}: starting afresh ({error})")
        else:
            same_launch = found.manifest is not None and found.manifest.get("launch") == launch_id()
            if init_from == "auto" or same_launch:
                return "resume", found
    return "scratch" if init_from == "auto" else init_from, None


def complete(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint to resume with what it lacks added, as in a new run; one line is logged about that.

    Without `optimizer` the moments start at zero. A value that is there but wrong is left for `require_counters`.
    """
    given = {key: value for key, value in checkpoint.items() if value is not None}
    optimizer, iter_num = given.get("optimizer"), given.get("iter_num")
    loss = given.get("best_val_loss")
    if isinstance(loss, float | torch.Tensor) and is_number(loss) and math.isnan(loss):  # nothing would be lower
        del given["best_val_loss"]
    if optimizer in ({}, {"state": {}, "param_groups": []}):
        del given["optimizer"]
    if isinstance(iter_num, torch.Tensor) and _is_whole_number(iter_num):
        given["iter_num"] = iter_num.item()
    if lacking := [f"{key} ({meaning})" for key, meaning in WITHOUT.items() if key not in given]:
        log.info(f"resume: the checkpoint lacks {', '.join(lacking)}")
    losses = {"best_val_loss": NEW_RUN_LOSS, "lowest_val_loss": math.inf} if "best_val_loss" not in given else {}
    return {**checkpoint, "iter_num": 0, "optimizer": None, **losses, **given}


def require_finite_moments(optimizer: Any) -> None:
    """Raise CheckpointError if the state of an optimizer holds a tensor that is not finite."""
    states = optimizer.get("state") if isinstance(optimizer, dict) else None
    for key, moments in states.items() if isinstance(states, dict) else ():
        for name, value in moments.items() if isinstance(moments, dict) else ():
            if isinstance(value, torch.Tensor) and not _is_ordinary(value):
                raise CheckpointError(
                    f"the checkpoint's optimizer state is damaged ({name} of tensor {key} is no ordinary tensor): use "
                    "an earlier checkpoint, or begin a new run from its weights with --init_from_checkpoint"
                )
            if isinstance(value, torch.Tensor) and not torch.isfinite(value).all():
                raise CheckpointError(
                    f"the checkpoint's optimizer state is not finite ({name} of tensor {key}): use an earlier "
                    "checkpoint, or begin a new run from its weights with --init_from_checkpoint and another out_dir"
                )


def _is_whole_number(tensor: torch.Tensor) -> bool:
    return tensor.numel() == 1 and not tensor.is_floating_point() and not tensor.is_meta


def _is_ordinary(tensor: torch.Tensor) -> bool:
    """Return whether a tensor holds a number of its own for each element, which an update can write."""
    is_strided = tensor.layout == torch.strided and not tensor.is_meta
    return is_strided and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.itemsize


def require_counters(checkpoint: dict[str, Any]) -> None:
    """Raise CheckpointError if a checkpoint lacks what every resume needs, nanoGPT's included."""
    evaluated_at = checkpoint.get("evaluated_at")
    right = {
        "iter_num": _is_count(checkpoint.get("iter_num")),
        "best_val_loss": is_number(checkpoint.get("best_val_loss")),
        "lowest_val_loss": is_number(checkpoint.get("lowest_val_loss", 0.0)),
        "evaluated_at": evaluated_at is None or _is_count(evaluated_at),
        "config": isinstance(checkpoint.get("config", {}), dict | NoneType),
        "recovery": _skips_few(checkpoint.get("recovery")),
    }
    if wrong := [key for key, is_right in right.items() if not is_right]:
        raise CheckpointError(
            f"the checkpoint lacks {', '.join(wrong)}, or has a wrong value there: it can be sampled from, but not "
            "resumed; begin a new run from its weights with --init_from_checkpoint"
        )


def _is_count(value: Any) -> bool:
    return _is_integer(value) and 0 <= value < 2**53


def _skips_few(recovery: Any) -> bool:
    """Return whether the batches that a run skips can be drawn in reasonable time; Recovery finds other faults."""
    left_out = recovery.get("left_out") if isinstance(recovery, dict) else None
    counts = left_out.values() if isinstance(left_out, dict) else ()
    return all(count <= MOST_SKIPPED for count in counts if isinstance(count, int))


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether `float(value)` gives a number: of a Python number, or of an ordinary tensor that holds one."""
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and value.layout == torch.strided and not (value.is_meta or value.is_complex())
    return isinstance(value, float) or (_is_integer(value) and abs(value) < 2**1000)


def changed_options(saved: dict[str, Any], given: dict[str, Any]) -> str:
    """Return the options whose values differ as a text, "" for none; those that stay as saved come first."""
    changed = [name for name in given if name not in NOT_COMPARED and name in saved and _differs(saved, given, name)]
    old, new = ({name: _shown(values[name]) for name in changed} for values in (saved, given))
    fixed = [f"{name} stays {old[name]} (not {new[name]})" for name in changed if name in STAY_AS_SAVED]
    others = [f"{name} {old[name]} -> {new[name]}" for name in changed if name not in STAY_AS_SAVED]
    advice = (
        f"; to change what stays, begin a new run with --init_from_checkpoint={given.get('out_dir')}" if fixed else ""
    )
    return ", ".join([*fixed, *others]) + advice


def _shown(value: Any) -> str:
    """Return a value for a message: in one line, and shortened."""
    try:
        text = " ".join(str(value).split())
    except ValueError:  # a number of more digits than Python prints
        return f"a {type(value).__name__}"
    text = text or repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _differs(saved: dict[str, Any], given: dict[str, Any], name: str) -> bool:
    # no option of ours is a tensor, and a comparison with one is no bool
    return isinstance(saved.get(name), torch.Tensor) or bool(saved.get(name) != given.get(name))


def same_batches(saved: dict[str, Any], given: dict[str, Any]) -> bool:
    """Return whether a batch that was drawn with the saved options fits the given ones."""
    return not any(_differs(saved, given, name) for name in SHAPE_OF_BATCHES)


def has_other_data(
    saved: dict[str, Any], manifest: dict[str, Any] | None, given: dict[str, Any], fingerprint: str | None
) -> bool:
    """Return whether a run goes on with another data set, not with another spelling of its name.

    saved, given: the options of the checkpoint and of the run; they decide if a fingerprint is not known
    """
    before = None if manifest is None else manifest.get("data_fingerprint", manifest.get("data"))
    if before is not None and fingerprint is not None:
        return bool(before != fingerprint)
    names = [Path(str(options["dataset"])).name for options in (saved, given) if options.get("dataset")]
    return len(set(names)) > 1


def resume_command(out_dir: str | Path, world_size: int) -> str:
    """Return the whole command that goes on with a run: with the saved options, and as many processes."""
    return train_command(f"--init_from=resume --out_dir={shlex.quote(str(out_dir))}", world_size)


def train_command(arguments: str, world_size: int) -> str:
    """Return the command that trains in as many processes. arguments: quoted for a shell"""
    if world_size == 1:
        return f"{command('train.py')} {arguments}"
    is_one_node = os.environ.get("LOCAL_WORLD_SIZE", str(world_size)) == str(world_size)
    processes = f"--standalone --nproc_per_node={world_size}" if is_one_node else "(as before)"
    return f"{command('train.py', f'torchrun {processes}')} {arguments}"


def sample_command(out_dir: str | Path, device: str | None = None) -> str:
    """Return the command that samples from a run. device: None is sample.py's default"""
    given = f" --device={shlex.quote(device)}" if device else ""
    return f"{command('sample.py')} --out_dir={shlex.quote(str(out_dir))}{given}"


@contextmanager
def damaged_if_it_fails() -> Iterator[None]:
    """Turn an error of wrong or missing keys into the message that the checkpoint is damaged."""
    try:
        yield
    except CoreGPTError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint's counters or states are damaged ({reason(error)}): it can be sampled from, but not "
            "resumed; begin a new run from its weights with --init_from_checkpoint"
        ) from None
