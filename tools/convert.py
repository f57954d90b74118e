"""
Convert a checkpoint of the train_run, the core or the D line into a checkpoint of this program.

    python -m tools.convert out/ckpt_unmasking_8000.pt              # writes out/ckpt_unmasking_8000-converted/ckpt.pt
    python -m tools.convert out-char-diffusion --out out-mlm        # the newest, by ckpt_meta.json or by its number
    python -m tools.convert out --dataset=shakespeare_char          # for a checkpoint that does not name its data set
    python -m tools.convert best_model.pth                          # an OptimizedGPT2 of the D line

The new checkpoint can be resumed (--init_from=resume --out_dir=FOLDER), sampled from, and used by other runs. Legacy
files hold pickled objects of legacy classes: they are read as plain data, and no code in them is run. Notes name what
could not be converted.
"""

import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core import files
from core.checkpoint.format import CHECKPOINT, arrange
from core.checkpoint.other_formats import kind_of_content
from core.checkpoint.resume import NEW_RUN_LOSS
from core.commands import argument_parser
from core.errors import CheckpointError, ConfigError, exit_on_error
from data.meta import read_meta
from tools.legacy_checkpoints import find, read
from tools.legacy_gpt2 import convert_optimized_gpt2, weights_of
from tools.legacy_model import (
    LANGUAGE_MODEL,
    MODES,
    convert_model_args,
    convert_weights,
    empty_model,
    legacy_weights,
    training_type,
)
from tools.legacy_optimizer import convert_optimizer
from tools.output import refuse_unwritable
from wiring.data import GPT2_TOKENS, data_folder

__all__ = ["Converted", "convert", "find", "main", "read"]

State = dict[str, Any]

# options that a run has in common with its model: without them the converted run could not go on
SHAPE_OPTIONS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout", "position_encoding")


class Converted(NamedTuple):
    """The new checkpoint, and notes for the user, one line each."""

    checkpoint: State
    notes: list[str]


def convert(old: Any, mode: str | None = None, dataset: str | None = None, n_head: int | None = None) -> Converted:
    """Return a checkpoint of this program, made from a legacy checkpoint as `read` returns it.

    mode:    language_model or sequence_scorer, for a model with the heads of both; default: the mode it was trained in
    dataset: the data set that it was trained on; default: as the checkpoint says
    n_head:  for bare weights of an OptimizedGPT2, which do not show it

    Raises CheckpointError if `old` is not a legacy checkpoint, or has parts that this program's model lacks.
    """
    if (weights := weights_of(old)) is not None:
        if mode not in (None, LANGUAGE_MODEL):
            raise ConfigError(f"--mode={mode}: this checkpoint is a {LANGUAGE_MODEL}, and has no other head")
        return _optimized_gpt2(old, weights, dataset, n_head)
    _require_legacy_checkpoint(old)
    state = legacy_weights(old)
    config, lost = _config(old.get("config"), dataset)
    args = convert_model_args(old["model_args"], state, config, mode)
    shape = {name: args[name] for name in SHAPE_OPTIONS if name in args}
    config = {**config, **shape, "training_type": training_type(args, config.get("training_type"))}
    model = empty_model(args)
    weights, notes = convert_weights(state, args, model)
    notes += lost
    checkpoint = {
        "model": weights,
        "model_args": args,
        "iter_num": int(old.get("iter_num", 0)),
        "best_val_loss": float(old.get("best_val_loss", 1e9)),
        "config": config,
    }
    try:
        checkpoint["optimizer"], more = convert_optimizer(old, state, args, model)
        notes += more
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = error if isinstance(error, ValueError) else f"it is damaged, {type(error).__name__}: {error}"
        notes.append(f"no optimizer state ({reason}): other runs can use the new checkpoint, but it cannot be resumed")
    return Converted(arrange(CHECKPOINT, {**checkpoint, **_progress(old.get("training_context"), args)}), notes)


def _optimized_gpt2(old: State, weights: State, dataset: str | None, n_head: int | None) -> Converted:
    """Return a checkpoint made from an OptimizedGPT2 of the D line, whose tokens are GPT-2's."""
    checkpoint, notes = convert_optimized_gpt2(old, weights, n_head)
    args = checkpoint["model_args"]
    if args["vocab_size"] < GPT2_TOKENS and not dataset:
        notes += _config(None, None)[1]
    config = {name: args[name] for name in (*SHAPE_OPTIONS, "activation") if name in args}
    config |= {"training_type": LANGUAGE_MODEL, **({"dataset": dataset} if dataset else {})}
    return Converted(arrange(CHECKPOINT, {**checkpoint, "best_val_loss": NEW_RUN_LOSS, "config": config}), notes)


def _config(saved: Any, dataset: str | None) -> tuple[State, list[str]]:
    """Return the options in a legacy checkpoint with the given data set, and notes on what they lack."""
    notes = []
    config = dict(saved) if isinstance(saved, dict) else {}
    if "class" in config:  # a script with stages overwrote its options with a stage before it saved them
        config = {"training_type": "unmasking"}
        notes.append(
            "the options of its run are lost, as the checkpoint holds a masking stage in their place: to train on, "
            "give its config file again"
        )
    named = config.get("dataset")
    if dataset and named not in (None, dataset):
        notes.append(f"dataset={dataset}, as given; the checkpoint says {named}")
    if not dataset and not named:
        notes.append(
            "its data set is not known, and sampling needs the text of its tokens: convert it again with "
            "--dataset=NAME --out=ANOTHER_FOLDER"
        )
    return {**config, **({"dataset": dataset} if dataset else {})}, notes


def _check_vocabulary(dataset: str, size: int, is_given: bool) -> list[str]:
    """Return a note if a data set lacks its vocabulary.

    Raises ConfigError if it is given, and has more tokens than the model; if the checkpoint names it, this is a note.
    """
    path = data_folder(dataset) / "meta.pkl"
    if not path.exists() and size >= GPT2_TOKENS:
        return []
    if not path.exists():
        return [f"there is no {path}, which sampling needs for the text of the tokens: prepare that data set"]
    if (found := read_meta(path)["vocab_size"]) <= size:
        return []
    if is_given:
        raise ConfigError(
            f"--dataset={dataset} has {found} tokens, the model only {size}: give the data set that it was trained on"
        )
    return [
        f"{path} has {found} tokens, the model only {size}: convert it again with the data set that it was trained on, "
        "--dataset=NAME --out=ANOTHER_FOLDER"
    ]


def _require_legacy_checkpoint(old: Any) -> None:
    kind = "this is not a checkpoint of the train_run, the core or the D line"
    given = old if isinstance(old, dict) else {}
    missing = [key for key in ("model", "model_args") if not isinstance(given.get(key), dict)]
    if missing:
        raise CheckpointError(f"{kind}: it has no {', '.join(missing)}")
    if not all(isinstance(tensor, torch.Tensor) for tensor in given["model"].values()):
        raise CheckpointError(f"{kind}: its model holds values that are no tensors")
    if "ranks" in given:
        raise CheckpointError("this is a checkpoint of this program already: nothing to convert")


def _progress(context: Any, args: State) -> State:
    """Return the states of the stage callback and the entropy penalty, under their keys in a checkpoint.

    context: the legacy training_context
    """
    if not isinstance(context, dict) or "mode" in args:
        return {}
    stage = {
        "current_stage": int(context.get("current_stage", 0)),
        "stale_count": int(context.get("val_loss_stale_count", 0)),
        "best_val_loss": float(context.get("best_val_loss_for_stage", math.inf)),
    }
    average = torch.tensor(float(context.get("entropy_multiplier_ema", 1.0)))
    return {
        "callbacks": {"StageProgress": stage},
        "objective": {"EntropyPenaltyModifier": {"multiplier_ema": average}},
    }


def main(argv: Sequence[str]) -> Path:
    """Convert the checkpoint given on the command line and return the path of the new one."""
    parser = argument_parser("tools/convert.py", __doc__)
    parser.add_argument(
        "old", type=files.path_argument, help="checkpoint file, its ckpt_meta.json, or the folder of both"
    )
    parser.add_argument("--out", type=files.path_argument, help="where to write: a folder, or a file that ends in .pt")
    parser.add_argument(
        "--mode", choices=MODES, help="for a model with two heads; default: the mode that it was trained in"
    )
    parser.add_argument("--n_head", type=int, help="for bare weights of an OptimizedGPT2: the number of heads")
    parser.add_argument("--dataset", help="the data set it was trained on; default: as the checkpoint says")
    given = parser.parse_args(argv)
    path = find(given.old)
    target = given.out or path.with_name(f"{path.stem}-converted")
    target = target if target.suffix == ".pt" else target / "ckpt.pt"
    if target.exists():
        raise ConfigError(f"{target} exists already: move it away, or choose another place with --out")
    try:
        old = read(path)
        is_whole = isinstance(old, dict) and {"model", "model_args"} <= old.keys()
        if not is_whole and weights_of(old) is None and (kind := kind_of_content(path, old)):
            raise CheckpointError(f"{path} is {kind}")
        checkpoint, notes = convert(old, given.mode, given.dataset, given.n_head)
    except CheckpointError as error:
        raise CheckpointError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    if isinstance(dataset := checkpoint["config"].get("dataset"), str):
        notes += _check_vocabulary(dataset, checkpoint["model_args"]["vocab_size"], bool(given.dataset))
    with refuse_unwritable("--out", target, RuntimeError):  # of torch's writer
        files.make_folder(target.parent)
        files.write_atomically(target, functools.partial(torch.save, checkpoint))
        files.flush_folder(target.parent)
    kind = checkpoint["config"]["training_type"]
    print(f"{target}: the {kind} model of {path}, after {checkpoint['iter_num']} iterations")
    for note in notes:
        print(f"  {note}")
    return target


if __name__ == "__main__":
    with exit_on_error():
        main(sys.argv[1:])
