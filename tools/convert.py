"""
Convert a checkpoint of the train_run line or of the core line into one of this program's.

    python -m tools.convert out/ckpt_unmasking_8000.pt              # writes out/ckpt_unmasking_8000-converted/ckpt.pt
    python -m tools.convert out-char-diffusion --out out-mlm        # the newest, by ckpt_meta.json or by its number

The result can be resumed (--init_from=resume --out_dir=THAT_FOLDER), sampled from, and named where another run's
checkpoint is wanted. Files of those lines hold objects of their own classes: they are read as plain data, and nothing
in them is run. What cannot come along is named.
"""

import argparse
import contextlib
import functools
import io
import json
import math
import pickle
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from core import files
from core.checkpoint.format import handle_state_dict_prefixes
from core.errors import CheckpointError, ConfigError, exit_on_error
from core.optimizer import UNFROZEN
from model import GPT, GPTConfig

State = dict[str, Any]

SIDECAR = "ckpt_meta.json"
NUMBERED = re.compile(r"ckpt_(.+)_(\d+)\.pt")
MODES = ("language_model", "token_classifier", "sequence_scorer")
TOKENS, LM_HEAD = "transformer.wte.weight", "lm_head.weight"
RENAMED = {
    "sequence_head.0.weight": "sequence_head.linear.weight",  # the train_run line's
    "sequence_head.base_predictor.weight": "sequence_head.linear.weight",
    "sequence_head.A": "sequence_head.slope",
    "sequence_head.B": "sequence_head.offset",
}
BUFFERS = re.compile(r"\.(rotary_emb\.(inv_freq|cos_cached|sin_cached)|attn\.(masked_)?bias|_dummy)$")
UNSUPPORTED = {"LoRA layers": r"\.lora_", "a plan encoder or its guidance": r"^plan_encoder\.|\.(cross|ln_cross)\."}
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Converted(NamedTuple):
    """checkpoint: what this program reads; notes: what the user should know about it, a line each"""

    checkpoint: State
    notes: list[str]


# finding


def find(old: str | Path) -> Path:
    """Return the checkpoint meant: a file itself; of a folder, or its ckpt_meta.json, the newest of its one kind.

    As the lines do, the sidecar is believed first; without it the highest number counts, then there is `ckpt.pt`.
    Raises CheckpointError where there is none, or several kinds of training to choose from.
    """
    old = Path(old)
    if not old.is_dir() and old.name != SIDECAR:
        return old
    folder = old if old.is_dir() else old.parent
    newest = _numbered(folder) | _by_sidecar(folder / SIDECAR)
    if len(newest) > 1:
        names = ", ".join(str(path) for path in newest.values())
        raise CheckpointError(f"{folder} holds checkpoints of several kinds of training: give the file, one of {names}")
    path = next(iter(newest.values()), folder / "ckpt.pt")
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: give a ckpt_<type>_<iter>.pt, a ckpt.pt, or their folder")
    return path


def _by_sidecar(path: Path) -> dict[str, Path]:
    """Return the newest checkpoint of each kind of training; nothing where the sidecar is missing or damaged."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {kind: path.parent / Path(entry["last_path"]).name for kind, entry in entries.items()}
    except (OSError, ValueError, AttributeError, TypeError, LookupError):
        return {}


def _numbered(folder: Path) -> dict[str, Path]:
    found = [(int(match[2]), match[1], path) for path in folder.iterdir() if (match := NUMBERED.fullmatch(path.name))]
    return {kind: path for _, kind, path in sorted(found)}


# reading


def read(path: str | Path) -> Any:
    """Return what `torch.save` put into a file, as tensors and plain values; no class in it is looked up or called.

    An enum's member becomes its value, a dataclass a dict of its fields and its `class`. Raises CheckpointError for a
    file that is damaged, or of another kind.
    """
    try:
        with zipfile.ZipFile(path) as file:
            (name,) = [name for name in file.namelist() if name.endswith("/data.pkl")]
            return _plain(_Reader(file, name.removesuffix("data.pkl")).load())
    except Exception as error:  # a damaged file can fail in nearly any way
        raise CheckpointError(
            f"cannot read {path}: it is missing, damaged, or not saved by PyTorch 1.6 or later "
            f"({type(error).__name__}: {error})"
        ) from None


class _Stored(NamedTuple):
    """The numbers of one or several tensors, in a row."""

    flat: torch.Tensor


class _Foreign:
    """Stands for an object of any class, or the result of any function: what the file says about it, and no more."""

    path = ""  # of the class or function

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Foreign":
        self = super().__new__(cls)
        self.args, self.state, self.items = args, None, {}
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]


class _Reader(pickle.Unpickler):
    """Unpickles one record of a zip file; whatever class or function it asks for, it gets a stand-in."""

    def __init__(self, file: zipfile.ZipFile, root: str) -> None:
        order = f"{root}byteorder"
        if order in file.namelist() and file.read(order).decode() != sys.byteorder:
            raise ValueError(f"its numbers are not {sys.byteorder}-endian, as this machine's are")
        super().__init__(io.BytesIO(file.read(f"{root}data.pkl")))
        self.file = file
        self.root = root
        self.stored: dict[str, _Stored] = {}

    def find_class(self, module: str, name: str) -> Any:
        return type("Foreign", (_Foreign,), {"path": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> _Stored:
        _, kind, key, *_ = pid
        if key not in self.stored:  # tied tensors share one
            dtype = STORAGES[kind.path.rpartition(".")[2]]
            data = bytearray(self.file.read(f"{self.root}data/{key}"))
            self.stored[key] = _Stored(torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype))
        return self.stored[key]


def _plain(value: Any) -> Any:
    """Return a value without stand-ins in it."""
    if isinstance(value, _Foreign):
        return _meaning(value)
    if isinstance(value, type):
        return value.path if issubclass(value, _Foreign) else value.__name__
    if isinstance(value, dict):
        return {_plain(key): _plain(kept) for key, kept in value.items()}
    if isinstance(value, list | set | frozenset):
        return [_plain(kept) for kept in value]
    return tuple(_plain(kept) for kept in value) if isinstance(value, tuple) else value


def _meaning(found: _Foreign) -> Any:
    """Return what a stand-in stands for: a tensor, a number, a container, a member of an enum, or fields by name."""
    module, _, name = found.path.rpartition(".")
    if found.path == "torch._utils._rebuild_tensor_v2":
        stored, offset, size, stride = found.args[:4]
        return torch.as_strided(stored.flat, _plain(size), _plain(stride), offset)
    args = _plain(found.args)
    if found.path in ("torch._utils._rebuild_parameter", "_codecs.encode"):
        return args[0].encode("latin1") if name == "encode" else args[0]
    if found.path in ("collections.OrderedDict", "collections.defaultdict"):
        return _plain(found.items)
    if found.path == "numpy.dtype":
        return found.state[1].strip("|") + args[0] if found.state else args[0]
    if name == "scalar" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        return np.frombuffer(args[1], dtype=np.dtype(str(args[0]))).tolist()[0]
    if name == "getattr" and len(args) == 2:  # how some versions of Python pickle a member of an enum
        return str(args[1]).lower()
    if isinstance(found.state, dict):
        return {"class": found.path, **_plain(found.state)}
    return args[0] if len(args) == 1 else {"class": found.path, "args": list(args)}


# converting


def convert(old: Any, mode: str | None = None) -> Converted:
    """Return a checkpoint of ours from one of either line, as `read` returns it.

    mode: what to make of a model that has both heads, a language model's and a scorer's; by default what it trained as

    Raises CheckpointError for what is no such checkpoint, or has parts that this program's model lacks.
    """
    _require_convertible(old)
    state = {
        name: tensor
        for name, tensor in handle_state_dict_prefixes(old["model"]).items()
        if not BUFFERS.search(name) or not name.startswith("transformer.")
    }
    _require_supported(state)
    config = old.get("config")
    config = config if isinstance(config, dict) and "class" not in config else {}  # one script puts a stage there
    args = _model_args(old["model_args"], state, config, mode)
    kind = _training_type(args, config.get("training_type"))
    config = {**config, "training_type": kind}  # there it is not always in our words
    model = _model(args)
    weights, notes = _weights(state, args, model)
    checkpoint = {
        "model": weights,
        "model_args": args,
        "iter_num": int(old.get("iter_num", 0)),
        "best_val_loss": float(old.get("best_val_loss", 1e9)),
        "config": config,
    }
    try:
        checkpoint["optimizer"] = _optimizer(old, state, args, model, notes)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = error if isinstance(error, ValueError) else f"it is damaged, {type(error).__name__}: {error}"
        notes.append(f"no optimizer state ({reason}): the result can be used by other runs, but not resumed")
    return Converted({**checkpoint, **_progress(old.get("training_context"), args)}, notes)


def _require_convertible(old: Any) -> None:
    given = old if isinstance(old, dict) else {}
    missing = [key for key in ("model", "model_args") if not isinstance(given.get(key), dict)]
    if missing:
        raise CheckpointError(f"this is no checkpoint of the train_run line or the core line: no {', '.join(missing)}")
    if not all(isinstance(tensor, torch.Tensor) for tensor in given["model"].values()):
        raise CheckpointError("this is no checkpoint of the train_run line or the core line: its model is no tensors")
    if "ranks" in given:
        raise CheckpointError("this checkpoint is this program's already: there is nothing to convert")


def _require_supported(state: State) -> None:
    for what, pattern in UNSUPPORTED.items():
        if name := next((name for name in state if re.search(pattern, name)), None):
            raise CheckpointError(
                f"the checkpoint has {what} ({name}), which this program's model lacks: train without, or merge them "
                "with the program that made it"
            )


def _model_args(old: State, state: State, config: State, mode: str | None) -> State:
    """Return the model's arguments in our names; like ours, without those that have their default value."""
    sizes = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    if missing := [name for name in sizes if not isinstance(old.get(name), int)]:
        raise CheckpointError(f"the checkpoint's model_args lack {', '.join(missing)}")
    both_heads = LM_HEAD in state and "sequence_head.base_predictor.weight" in state
    trained_as = str(old.get("mode") or (both_heads and config.get("model_mode")) or MODES[0]).lower()
    if old.get("binary_classification") and trained_as == MODES[0]:
        trained_as = "token_classifier"
    if both_heads and trained_as == "token_classifier":  # such a version warns, and trains a language model
        trained_as = MODES[0]
    if mode not in (None, trained_as) and not (both_heads and mode in (MODES[0], MODES[2])):
        raise ConfigError(f"--mode={mode}: this checkpoint is a {trained_as}, and has no other head")
    mode = mode or trained_as
    if mode not in MODES:
        raise CheckpointError(f"the checkpoint is a {mode}, wanted one of {', '.join(MODES)}")
    args = {**{name: old[name] for name in sizes}, "bias": old.get("bias", True), "dropout": old.get("dropout", 0.0)}
    if mode != MODES[0] or both_heads or old.get("attention_type") == "bidirectional":
        args["attention_type"] = "bidirectional"
    if "transformer.wpe.weight" not in state:
        args["position_encoding"] = "rotary"
    if mode != MODES[0]:
        args["mode"] = mode
    if mode == "token_classifier" and LM_HEAD in state:
        args["num_token_classes"] = len(state[LM_HEAD])
    if mode == "sequence_scorer":
        args["cls_token_id"] = old.get("cls_token_id")
        if not isinstance(args["cls_token_id"], int) or not 0 <= args["cls_token_id"] < args["vocab_size"]:
            raise CheckpointError(
                f"the scorer's cls_token_id is {args['cls_token_id']}, wanted a token of its vocabulary of "
                f"{args['vocab_size']}: without a CLS token there is nothing to read the score from"
            )
    return args


def _model(args: State) -> GPT:
    """Return a model of ours without numbers in it: for the names, the order and the shapes of its parameters."""
    try:
        with torch.device("meta"), contextlib.redirect_stdout(io.StringIO()):
            return GPT(GPTConfig(**args))
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(f"the checkpoint's model_args make no model: {error}") from None


def _training_type(args: State, said: Any) -> str:
    """Return what a model like this learns; of the language models, those that see both sides, or say so, fill gaps."""
    heads = {"token_classifier": "token_classification", "sequence_scorer": "sequence_scoring"}
    fills_gaps = said == "unmasking" or args.get("attention_type") == "bidirectional"
    return heads.get(args.get("mode", ""), "unmasking" if fills_gaps else "language_model")


def _weights(state: State, args: State, model: GPT) -> tuple[State, list[str]]:
    """Return the weights under our names, and notes on what was left out or added."""
    wanted, notes = model.state_dict(), []
    weights = {RENAMED.get(name, name): tensor for name, tensor in state.items()}
    if wanted.keys() >= {LM_HEAD, TOKENS} and "mode" not in args and not _is_tied(state):
        raise CheckpointError("lm_head.weight is not the token embedding, as it is in this program's language models")
    if "mode" in args and args["mode"] == "sequence_scorer":
        if "sequence_head.slope" not in weights:
            weights["sequence_head.slope"], weights["sequence_head.offset"] = torch.ones(1), torch.zeros(1)
            notes.append("the score's slope and offset are new, and change nothing yet")
        if "cls_embedding" not in weights and TOKENS in weights:
            weights["cls_embedding"] = weights[TOKENS][args["cls_token_id"]].clone()
    left_out = [name for name in state if RENAMED.get(name, name) not in wanted]
    wrong = [
        *(f"{name} is missing" for name in wanted if name not in weights),
        *(f"{name} is not known" for name in left_out if name.startswith("transformer.")),
        *(
            f"{name} has shape {tuple(weights[name].shape)}, wanted {tuple(wanted[name].shape)}"
            for name in wanted
            if name in weights and weights[name].shape != wanted[name].shape
        ),
    ]
    if wrong:
        raise CheckpointError(f"the weights do not fit this program's model: {'; '.join(wrong[:5])}")
    if left_out := [name for name in left_out if name != LM_HEAD or not _is_tied(state)]:
        notes.append(f"left out, as nothing here uses them: {', '.join(left_out)}")
    return {name: weights[name] for name in wanted}, notes


def _is_tied(state: State) -> bool:
    return TOKENS in state and LM_HEAD in state and torch.equal(state[TOKENS], state[LM_HEAD])


def _optimizer(old: State, state: State, args: State, model: GPT, notes: list[str]) -> State:
    """Return AdamW's state for our model. Raises ValueError saying why it cannot be had, or another for a damaged one.

    The old order of parameters is that of the old state dict; which of them it has, its groups' sizes tell: all; the
    heads alone, while the transformer is frozen; or these and then the rest, once it is not.
    """
    saved, old_args = old.get("optimizer"), old["model_args"]
    if not saved:
        raise ValueError("the checkpoint has none")
    if old_args.get("share_main_matrices"):
        raise ValueError("its layers share their matrices, here each has its own")
    sizes = {name: tensor.dim() for name, tensor in state.items() if name != LM_HEAD or not _is_tied(state)}
    layouts = {phase: _groups(sizes, phase, tied=_is_tied(state)) for phase in ("all", "frozen", "unfrozen")}
    found = [len(group["params"]) for group in saved["param_groups"]]
    phase = next((phase for phase, groups in layouts.items() if [len(group) for group in groups] == found), None)
    if phase is None:
        raise ValueError(f"it has groups of {found} tensors, which is no arrangement of this model's")
    moments = {
        RENAMED.get(name, name): saved["state"][index]
        for group, names in zip(saved["param_groups"], layouts[phase], strict=True)
        for index, name in zip(group["params"], names, strict=True)
        if index in saved["state"]
    }
    if "cls_embedding" not in state and TOKENS in moments and "cls_token_id" in args:
        row = args["cls_token_id"]
        moments["cls_embedding"] = {
            key: value[row].clone() if torch.is_tensor(value) and value.dim() == 2 else value
            for key, value in moments[TOKENS].items()
        }
    ours = dict(model.named_parameters())
    for name, kept in moments.items():
        if name in ours and (shape := kept["exp_avg"].shape) != ours[name].shape:
            raise ValueError(f"its exp_avg of {name} has shape {tuple(shape)}, the tensor {tuple(ours[name].shape)}")

    if phase == "all" and old_args.get("freeze_transformer"):
        phase = "unfrozen"  # the train_run line makes a new optimizer for all
    if phase != "all":
        now = "is" if phase == "frozen" else "was"
        notes.append(
            f"the transformer {now} frozen: resume with --freeze_transformer=True and the same unfreeze_at_iteration"
        )
    groups = _groups({name: tensor.dim() for name, tensor in ours.items()}, phase, tied="mode" not in args)
    factor = {"lr_factor": min(float(old_args.get("unfreeze_lr_multiplier", 1.0)), 1.0)} if phase == "unfrozen" else {}
    numbers = {name: number for number, name in enumerate(name for group in groups for name in group)}
    decay = saved["param_groups"][0]["weight_decay"]
    return {
        "state": {number: moments[name] for name, number in numbers.items() if name in moments},
        "param_groups": [
            {
                **saved["param_groups"][0],
                **factor,
                "weight_decay": decay if place != 1 and all(ours[name].dim() >= 2 for name in names) else 0.0,
                "params": [numbers[name] for name in names],
                **({UNFROZEN: True} if place >= 2 else {}),
            }
            for place, names in enumerate(groups)
        ],
    }


def _groups(sizes: dict[str, int], phase: str, tied: bool) -> list[list[str]]:
    """Return the names in each of AdamW's groups: what decays, what does not, and then what was unfrozen, likewise.

    sizes: the number of dimensions of each parameter, in the order of the model
    """
    heads = [name for name in sizes if not name.startswith("transformer.") or (tied and name == TOKENS)]
    first = list(sizes) if phase == "all" else heads
    later = [name for name in sizes if name not in first] if phase == "unfrozen" else []
    groups = [
        [name for name in names if (sizes[name] >= 2) == decay] for names in (first, later) for decay in (True, False)
    ]
    return groups[:2] + [group for group in groups[2:] if group]


def _progress(context: Any, args: State) -> State:
    """Return stages and running means, where callbacks and loss modifiers look for theirs."""
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


# the program


def main(argv: Sequence[str]) -> Path:
    """Convert a checkpoint, given as a command line; return the path of the new one."""
    parser = argparse.ArgumentParser(prog="python -m tools.convert", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("old", help="the checkpoint, its ckpt_meta.json, or the folder of both")
    parser.add_argument("--out", help="where to write: a folder, or a file that ends in .pt")
    parser.add_argument(
        "--mode", choices=MODES, help="what to make of a model with two heads, if not what it trained as"
    )
    given = parser.parse_args(argv)
    path = find(given.old)
    target = Path(given.out) if given.out else path.with_name(f"{path.stem}-converted")
    target = target if target.suffix == ".pt" else target / "ckpt.pt"
    if target.exists():
        raise ConfigError(f"{target} is there already: move it away, or write to another place with --out")
    try:
        checkpoint, notes = convert(read(path), given.mode)
    except CheckpointError as error:
        raise CheckpointError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
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
