"""Makes the model: from scratch, from a checkpoint, or pretrained; then compiles and wraps it."""

import difflib
import inspect
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from core.checkpoint.format import handle_state_dict_prefixes, is_of_an_earlier_line, load_checkpoint
from core.checkpoint.hugging_face import require_gpt2
from core.checkpoint.other_formats import kind_of_weights
from core.checkpoint.weights import (
    HEAD,
    POSITIONS,
    TOKENS,
    fit_to_model,
    require_equal,
    shape_args,
    tied_names,
    without_common_prefix,
)
from core.commands import command
from core.errors import CheckpointError, ConfigError
from core.machine.memory import TooLargeError, require_memory

log = logging.getLogger("coregpt")

GPT2_VOCAB = 50304
PRETRAINED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
SHAPE_ARGS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size")  # properties of the weights


class LoadedModel(NamedTuple):
    """A model on its device, and the arguments of its config class, as checkpoints keep them."""

    model: Any
    model_args: dict[str, Any]


# makes a model from the arguments that the options ask for; the result has those of the weights
ModelSource = Callable[[dict[str, Any]], LoadedModel]


def require_method(model: Any, name: str, what: str) -> None:
    """Raise ConfigError if a model or its class lacks a method. what: the use that needs it"""
    if not hasattr(model, name):
        raise ConfigError(f"model.py's GPT has no method {name}, which {what} needs: add what nanoGPT's model.py has")


class ModelInitializer:
    """Makes models of one class, as `model_class(config_class(**model_args))`; any fork's model.py will do.

    model_args throughout: a dict of nanoGPT's seven keys (SHAPE_ARGS and dropout), and further ones the class knows.

    say:          prints a line, where nanoGPT prints one
    unsaved_args: further arguments that are no property of the weights (which attention kernel)
    trains:       a new model needs memory for gradients and AdamW's moments as well; ConfigError if there is too little
    """

    def __init__(
        self,
        model_class: Any,
        config_class: Any,
        device: torch.device,
        say: Callable[[str], None] = print,
        unsaved_args: dict[str, Any] | None = None,
        trains: bool = False,
    ) -> None:
        self.model_class = model_class
        self.config_class = config_class
        self.device = device
        self.say = say
        self.unsaved_args = unsaved_args or {}
        self.trains = trains

    def initialize(self, source: ModelSource, model_args: dict[str, Any]) -> LoadedModel:
        """Return the model of a source, its context cropped to the `block_size` of `model_args`.

        Raises ConfigError if the weights have fewer positions than that.
        """
        block_size = model_args["block_size"]
        loaded = source(model_args)
        known = loaded.model.config.block_size
        if block_size > known:
            raise ConfigError(
                f"block_size={block_size} is more than the {known} positions that the weights know: "
                "lower it, or start from scratch"
            )
        return self.crop_block_size(loaded, block_size)

    def create_model_from_scratch(self, model_args: dict[str, Any]) -> LoadedModel:
        """Return a freshly initialised model. The random draws are made on the CPU."""
        if model_args["vocab_size"] is None:
            self.say(f"defaulting to vocab_size of GPT-2 to {GPT2_VOCAB} (50257 rounded up for efficiency)")
            model_args = {**model_args, "vocab_size": GPT2_VOCAB}
        return LoadedModel(self._build(model_args, self.trains).to(self.device), model_args)

    def resume_model_from_checkpoint(self, checkpoint: dict[str, Any], model_args: dict[str, Any]) -> LoadedModel:
        """Return a model with a checkpoint's architecture and weights; only dropout follows `model_args`.

        Sizes that the checkpoint's model_args lack are those of its weights. Raises CheckpointError if they do not fit.
        """
        given = {"dropout": model_args["dropout"]} if "dropout" in model_args else {}
        args = {**self._completed(checkpoint), **given}
        try:
            _require_as_large(checkpoint["model"], args)
            model = self._build(args)
        except (TooLargeError, CheckpointError):
            raise
        except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:  # arguments of a fork, or damaged ones
            _refuse_other_kinds(checkpoint["model"])
            raise CheckpointError(self._misfit(checkpoint, args, error)) from None
        load_exactly(model, checkpoint["model"])
        return LoadedModel(model.to(self.device), args)

    def load_pretrained(self, name: str, model_args: dict[str, Any]) -> LoadedModel:
        """Return a GPT-2 with OpenAI's weights, by its Hugging Face name or from a local folder."""
        self.require_pretrained(name)
        require_method(self.model_class, "from_pretrained", f"init_from={name}")
        chosen: dict[str, Any] = {key: model_args[key] for key in ("dropout", "activation") if key in model_args}
        model = self.model_class.from_pretrained(name, {**chosen, **self.unsaved_args})
        args = {**model_args, **{key: getattr(model.config, key) for key in SHAPE_ARGS}}
        return LoadedModel(model.to(self.device), args)

    @staticmethod
    def require_pretrained(name: str) -> None:
        """Raise ConfigError unless `name` is a GPT-2 of Hugging Face, or a local folder with one that fits."""
        if os.path.exists(Path(name, "config.json")):  # transformers, too, prefers a folder to the model of that name
            require_gpt2(Path(name))
        elif name not in PRETRAINED:
            near = difflib.get_close_matches(name.lower(), ("scratch", "resume", "auto", *PRETRAINED), n=1)
            raise ConfigError(
                f"init_from={name!r} is not known: wanted scratch, resume, {', '.join(PRETRAINED)}, hf:NAME, "
                f"or a folder that holds a Hugging Face GPT-2{_lacking(name)}"
                f"{f'; did you mean {near[0]}?' if near else ''}"
            )

    def crop_block_size(self, loaded: LoadedModel, block_size: int) -> LoadedModel:
        """Return the model with a context of `block_size` if that is shorter than the one it has."""
        if block_size >= loaded.model.config.block_size:
            return loaded
        require_method(
            loaded.model, "crop_block_size", f"a block_size below the checkpoint's {loaded.model.config.block_size}"
        )
        loaded.model.crop_block_size(block_size)
        return LoadedModel(loaded.model.to(self.device), {**loaded.model_args, "block_size": block_size})

    def setup_transfer_learning(self, model: nn.Module, path: str | Path) -> list[str]:
        """Copy a checkpoint's `transformer.*` tensors into a new model of the same width; heads stay new.

        With a larger vocabulary or longer context the checkpoint's rows are copied, with a shorter context its first
        rows; an lm_head tied to the token embedding is copied with that. Returns the names that were not copied. Raises
        CheckpointError if the two models do not fit. Not for a resumed model: it has its own weights.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"no checkpoint at {path}: give the file of a run to start from, such as out/ckpt.pt")
        checkpoint = load_checkpoint(path)
        own = model.state_dict()
        source = checkpoint["model"] = _transferable(checkpoint, own)
        _require_same_architecture(path, checkpoint, own, getattr(model, "config", None))
        body = [name for name in source if name.startswith("transformer.")]
        copied = [name for name in body if name in own and _copy_rows(source[name], own[name], name)]
        skipped = [name for name in source if name not in copied]
        filled = {own[name].data_ptr() for name in copied}
        fresh = [name for name, tensor in own.items() if tensor.data_ptr() not in filled]
        if (POSITIONS in source) != (POSITIONS in own):
            theirs, ours = ("absolute" if POSITIONS in names else "rotary" for names in (source, own))
            log.warning(f"transfer: {path} has {theirs} positions, the model {ours}: much has to be learnt again")
        log.info(f"transfer: {len(copied)} tensors from {path}; not copied: {_first(skipped)}; new: {_first(fresh)}")
        return skipped

    def load_frozen(self, path: str | Path, mode: str) -> tuple[Any, dict[str, Any]]:
        """Return another run's model, frozen and in evaluation mode, and that run's options.

        mode: what the model must be, such as sequence_scorer
        """
        checkpoint = load_checkpoint(path)
        model_args = dict(checkpoint["model_args"])
        if (found := model_args.get("mode", "language_model")) != mode:
            raise CheckpointError(f"{path} is a {found}, wanted a {mode}: give another run's checkpoint")
        model = self.resume_model_from_checkpoint(checkpoint, model_args).model.eval().requires_grad_(False)
        return model, checkpoint.get("config") or {}

    def compile_and_wrap_model(
        self, model: nn.Module, compile: bool, wrap: Callable[[nn.Module], nn.Module]
    ) -> nn.Module:
        """Return the model as training calls it: compiled if `compile` and this machine can, then wrapped."""
        if compile and self.can_compile():
            self.say("compiling the model... (takes a ~minute)")
            model = torch.compile(model)  # type: ignore[assignment]
        return wrap(model)

    def _completed(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Return a checkpoint's model_args, completed with the sizes of its weights. CheckpointError without n_head."""
        saved = {key: value for key, value in checkpoint["model_args"].items() if value is not None}
        shape = shape_args(handle_state_dict_prefixes(checkpoint["model"]))
        known = inspect.signature(self.config_class).parameters
        if shape and "n_head" in known and "n_head" not in saved:
            raise CheckpointError(
                "the checkpoint's model_args lack n_head, which the weights do not show: load the file with "
                "torch.load, set checkpoint['model_args']['n_head'] to the number it was trained with, and save it"
            )
        lacking = {key: value for key, value in shape.items() if key in known and key not in saved}
        return {**checkpoint["model_args"], **lacking}

    def _misfit(self, checkpoint: dict[str, Any], args: dict[str, Any], error: Exception) -> str:
        """Return why no model can be made with a checkpoint's arguments. error: what making one raised"""
        text = f"the checkpoint's model_args do not fit this model.py: {str(error).splitlines()[0]}"
        if is_of_an_earlier_line(checkpoint):
            convert = command("tools/convert.py")
            return f"{text}; it is of the train_run or the core line: convert it with `{convert} PATH`"
        known = inspect.signature(self.config_class).parameters
        unknown = [str(name) for name in args if name not in known]
        if isinstance(error, TypeError) and unknown:
            return (
                f"the checkpoint is of another model.py, whose GPTConfig has {', '.join(unknown)}, which this one "
                "lacks: put the model.py that it was trained with next to train.py"
            )
        return text

    def _build(self, model_args: dict[str, Any], trains: bool = False) -> Any:
        config = self.config_class(**model_args, **self.unsaved_args)
        require_memory(config, self.device, trains=trains)
        return self.model_class(config)

    def can_compile(self) -> bool:
        """Return whether this machine has what torch.compile needs, found out by compiling a tiny function."""
        try:
            torch.compile(torch.neg)(torch.zeros(8, device=self.device))
        except Exception as error:
            log.info(f"compile: not possible on this machine ({type(error).__name__}), training without it")
            return False
        return True


def _require_as_large(state: dict[str, Any], model_args: dict[str, Any]) -> None:
    """Raise CheckpointError if model_args ask for more than the weights have: to make 10**6 layers takes hours."""
    for name, size in shape_args(handle_state_dict_prefixes(state)).items():
        given = model_args.get(name)
        if name != "bias" and size and isinstance(given, int) and given > size:
            raise CheckpointError(
                f"the checkpoint's model_args do not fit its weights: they say {name}={given}, the weights have {size}"
            )


def load_exactly(model: nn.Module, state: dict[str, Any], *, is_ours: bool = True) -> None:
    """Load a state dict; CheckpointError names the tensors that do not fit, or the kind of model that it is of.

    is_ours: the model is that of model.py, for which weights of other kinds have to be converted
    """
    own = model.state_dict()
    state = fit_to_model(handle_state_dict_prefixes(state, like=own), own)
    wrong = [
        *(f"{name} is missing" for name in own if name not in state),
        *(f"{name} is not part of this model" for name in state if name not in own),
        *(
            f"{name} has shape {tuple(state[name].shape)}, wanted {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ),
        *(
            f"{name} is of type {state[name].dtype}, wanted {own[name].dtype}"  # quantized, without its factors
            for name in own
            if name in state and own[name].is_floating_point() and not state[name].is_floating_point()
        ),
    ]
    if wrong:
        if is_ours:
            _refuse_other_kinds(state)
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"the checkpoint does not fit the model: {'; '.join(wrong[:5])}{more}")
    model.load_state_dict(state)


def _refuse_other_kinds(state: dict[str, torch.Tensor]) -> None:
    """Raise CheckpointError if weights that do not fit are those of another kind of model, whose name is known."""
    if kind := kind_of_weights(state):
        raise CheckpointError(f"the checkpoint is {kind}")


def _transferable(checkpoint: dict[str, Any], own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a checkpoint's weights for a transfer: under plain names, with both names of tied token embeddings.

    Raises CheckpointError if the model ties them, and the checkpoint's head is another matrix.
    """
    source = without_common_prefix(checkpoint["model"])
    if HEAD not in source or checkpoint["model_args"].get("mode", "language_model") != "language_model":
        return source
    if any({TOKENS, HEAD} <= set(names) for names in tied_names(own)):
        require_equal(source, [name for name in (TOKENS, HEAD) if name in source])
    return {TOKENS: source[HEAD], **source}


def _require_same_architecture(
    path: str | Path, checkpoint: dict[str, Any], own: dict[str, torch.Tensor], config: Any
) -> None:
    """Raise CheckpointError unless the checkpoint's transformer can be copied into the model."""
    theirs, ours = checkpoint["model"].get(TOKENS), own.get(TOKENS)
    if theirs is None or ours is None or theirs.dim() != 2:
        _refuse_other_kinds(checkpoint["model"])
        raise CheckpointError(f"{path if theirs is None else 'the model'} has no {TOKENS}: nothing to start from")
    (their_vocab, their_width), (vocab, width) = theirs.shape, ours.shape
    their_heads, heads = checkpoint["model_args"].get("n_head"), getattr(config, "n_head", None)
    if their_width != width:
        raise CheckpointError(f"{path} has width n_embd={their_width}, the model {width}: set n_embd={their_width}")
    if None not in (their_heads, heads) and their_heads != heads:
        raise CheckpointError(f"{path} has n_head={their_heads}, the model {heads}: set n_head={their_heads}")
    if their_vocab > vocab:
        raise CheckpointError(
            f"{path} has {their_vocab} tokens, the model only {vocab}: prepare the data set with the vocabulary that "
            "the checkpoint was trained on, or one that begins with it"
        )


def _copy_rows(source: torch.Tensor, target: torch.Tensor, name: str) -> bool:
    """Copy a tensor, of an embedding the rows that both have. Return whether the shapes allow it."""
    if name in (TOKENS, POSITIONS):
        rows = min(len(source), len(target))
        source, target = source[:rows], target[:rows]
    if source.shape != target.shape or source.is_floating_point() != target.is_floating_point():
        return False
    target.copy_(source)  # a state dict's tensors are detached
    return True


def _lacking(folder: str) -> str:
    """Return what a folder lacks for a Hugging Face model, for a message; nothing if there is no such folder."""
    if os.path.exists(Path(folder, "adapter_config.json")):
        return ": this one holds an adapter alone, without its model"
    return ": this one has no config.json" if folder and os.path.isdir(folder) else ""


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "nothing") + more
