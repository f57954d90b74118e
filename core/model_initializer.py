"""Where the model comes from: made from scratch, resumed, or pretrained; then compiled and spread over processes."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.checkpoint.format import handle_state_dict_prefixes, load_checkpoint
from core.errors import CheckpointError, ConfigError

log = logging.getLogger("coregpt")

GPT2_VOCAB = 50304
PRETRAINED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
TOKENS, POSITIONS = "transformer.wte.weight", "transformer.wpe.weight"
SHAPE_ARGS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size")  # these come with the weights


class ModelInitializer:
    """Makes models of one class, given as `model_class(config_class(**model_args))`; any fork's model.py will do.

    model_args throughout: a dict of nanoGPT's seven keys (SHAPE_ARGS and dropout), and further ones the class knows.
    The methods update it in place where the weights bring their own values, as it is saved with every checkpoint.

    say:          prints a line, where nanoGPT prints one
    unsaved_args: further arguments that are no property of the weights (which attention kernel)
    """

    def __init__(
        self,
        model_class: Any,
        config_class: Any,
        device: torch.device,
        say: Callable[[str], None] = print,
        unsaved_args: dict[str, Any] | None = None,
    ) -> None:
        self.model_class = model_class
        self.config_class = config_class
        self.device = device
        self.say = say
        self.unsaved_args = unsaved_args or {}

    def initialize(self, init_from: str, model_args: dict[str, Any], checkpoint: dict[str, Any] | None = None) -> Any:
        """Return the model that `init_from` names; with `resume` the one of the checkpoint."""
        block_size = model_args["block_size"]
        if init_from == "scratch":
            self.say("Initializing a new model from scratch")
            model = self.create_model_from_scratch(model_args)
        elif checkpoint is not None:
            model = self.resume_model_from_checkpoint(checkpoint, model_args)
        else:
            _require_pretrained(init_from)
            self.say(f"Initializing from OpenAI GPT-2 weights: {init_from}")
            model = self.load_pretrained(init_from, model_args)
        if block_size > model.config.block_size:
            raise ConfigError(
                f"block_size={block_size} is more than the {model.config.block_size} positions that the weights know: "
                "lower it, or start from scratch"
            )
        self.crop_block_size(model, block_size, model_args)
        return model

    def create_model_from_scratch(self, model_args: dict[str, Any]) -> Any:
        """Return a freshly initialised model on the device. The random draws are made on the CPU."""
        if model_args["vocab_size"] is None:
            self.say(f"defaulting to vocab_size of GPT-2 to {GPT2_VOCAB} (50257 rounded up for efficiency)")
            model_args["vocab_size"] = GPT2_VOCAB
        return self._build(model_args).to(self.device)

    def resume_model_from_checkpoint(self, checkpoint: dict[str, Any], model_args: dict[str, Any]) -> Any:
        """Return a model with a checkpoint's architecture and weights; only dropout follows `model_args`."""
        given = {"dropout": model_args["dropout"]} if "dropout" in model_args else {}
        for name in model_args.keys() - checkpoint["model_args"].keys():
            del model_args[name]
        model_args.update({**checkpoint["model_args"], **given})
        try:
            model = self._build(model_args)
        except TypeError as error:  # a fork's checkpoint may hold arguments of its own
            raise CheckpointError(
                f"the checkpoint's model_args do not fit this model.py: {error}; one of the train_run or the core line "
                "is converted by `python -m tools.convert PATH`"
            ) from None
        _load_exactly(model, checkpoint["model"])
        return model.to(self.device)

    def load_pretrained(self, name: str, model_args: dict[str, Any]) -> Any:
        """Return a GPT-2 with OpenAI's weights, by its Hugging Face name or from a local folder."""
        _require_pretrained(name)
        model = self.model_class.from_pretrained(name, {"dropout": model_args["dropout"], **self.unsaved_args})
        model_args.update({key: getattr(model.config, key) for key in SHAPE_ARGS})
        return model.to(self.device)

    def crop_block_size(self, model: Any, block_size: int, model_args: dict[str, Any]) -> None:
        """Shorten the model's context where a smaller block_size is asked for than it came with."""
        if block_size < model.config.block_size:
            model.crop_block_size(block_size)
            model_args["block_size"] = block_size
            model.to(self.device)

    def setup_transfer_learning(self, model: nn.Module, path: str | Path) -> list[str]:
        """Copy a checkpoint's `transformer.*` tensors into a new model of the same width; heads stay fresh.

        A larger vocabulary or longer context keeps the rows the checkpoint knows, a shorter context its first ones; an
        lm_head tied to the token embedding comes along with that. Returns the checkpoint's names that were left out.
        Raises CheckpointError when the two do not go together. Not for a model that is resumed: it has learnt since.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"no checkpoint at {path}: give the file of a run to start from, such as out/ckpt.pt")
        checkpoint = load_checkpoint(path)
        source, own = checkpoint["model"], model.state_dict()
        _require_kin(path, checkpoint, own, getattr(model, "config", None))
        body = [name for name in source if name.startswith("transformer.")]
        copied = [name for name in body if name in own and _copy_rows(source[name], own[name], name)]
        skipped = [name for name in source if name not in copied]
        filled = {own[name].data_ptr() for name in copied}
        fresh = [name for name, tensor in own.items() if tensor.data_ptr() not in filled]
        if (POSITIONS in source) != (POSITIONS in own):
            theirs, ours = ("absolute" if POSITIONS in names else "rotary" for names in (source, own))
            log.warning(f"transfer: {path} has {theirs} positions, the model {ours}: much has to be learnt anew")
        log.info(f"transfer: {len(copied)} tensors from {path}; left out: {_some(skipped)}; fresh: {_some(fresh)}")
        return skipped

    def load_frozen(self, path: str | Path, mode: str) -> tuple[Any, dict[str, Any]]:
        """Return another run's model, frozen and in evaluation mode, for whoever asks it; and that run's options.

        mode: what it has to be, such as sequence_scorer
        """
        checkpoint = load_checkpoint(path)
        model_args = dict(checkpoint["model_args"])
        if (found := model_args.get("mode", "language_model")) != mode:
            raise CheckpointError(f"{path} is a {found}, wanted a {mode}: give another run's checkpoint")
        model = self.resume_model_from_checkpoint(checkpoint, model_args).eval().requires_grad_(False)
        return model, checkpoint.get("config") or {}

    def compile_and_wrap_model(
        self, model: nn.Module, compile: bool, wrap: Callable[[nn.Module], nn.Module]
    ) -> nn.Module:
        """Return the model as it is called in training: compiled if asked for and possible, then wrapped."""
        if compile and self.can_compile():
            self.say("compiling the model... (takes a ~minute)")
            model = torch.compile(model)  # type: ignore[assignment]
        return wrap(model)

    def _build(self, model_args: dict[str, Any]) -> Any:
        return self.model_class(self.config_class(**model_args, **self.unsaved_args))

    def can_compile(self) -> bool:
        """Compile a trifle, to learn before the run starts whether this machine has what torch.compile needs."""
        try:
            torch.compile(torch.neg)(torch.zeros(8, device=self.device))
        except Exception as error:
            log.info(f"compile: not possible on this machine ({type(error).__name__}), training without it")
            return False
        return True


def _require_pretrained(name: str) -> None:
    if name not in PRETRAINED and not (Path(name) / "config.json").is_file():
        raise ConfigError(
            f"init_from={name!r} is not known: wanted scratch, resume, {', '.join(PRETRAINED)}, "
            "or a folder that holds a Hugging Face GPT-2"
        )


def _load_exactly(model: nn.Module, state: dict[str, Any]) -> None:
    """Load a state dict; CheckpointError names the tensors that do not fit."""
    own = model.state_dict()
    state = handle_state_dict_prefixes(state, like=own)
    wrong = [
        *(f"{name} is missing" for name in own if name not in state),
        *(f"{name} is not part of this model" for name in state if name not in own),
        *(
            f"{name} has shape {tuple(state[name].shape)}, wanted {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ),
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"the checkpoint does not fit the model: {'; '.join(wrong[:5])}{more}")
    model.load_state_dict(state)


def _require_kin(path: str | Path, checkpoint: dict[str, Any], own: dict[str, torch.Tensor], config: Any) -> None:
    """Raise CheckpointError unless the checkpoint's transformer means the same as the model's, number by number."""
    theirs, ours = checkpoint["model"].get(TOKENS), own.get(TOKENS)
    if theirs is None or ours is None or theirs.dim() != 2:
        raise CheckpointError(f"{path if theirs is None else 'the model'} has no {TOKENS}: nothing to start from")
    (their_vocab, their_width), (vocab, width) = theirs.shape, ours.shape
    their_heads, heads = checkpoint["model_args"].get("n_head"), getattr(config, "n_head", None)
    if their_width != width:
        raise CheckpointError(f"{path} has width n_embd={their_width}, the model {width}: set n_embd={their_width}")
    if None not in (their_heads, heads) and their_heads != heads:
        raise CheckpointError(f"{path} has n_head={their_heads}, the model {heads}: set n_head={their_heads}")
    if their_vocab > vocab:
        raise CheckpointError(
            f"{path} knows {their_vocab} tokens, the model only {vocab}: prepare the data set with the vocabulary that "
            "the checkpoint was trained on, or one that begins with it"
        )


def _copy_rows(source: torch.Tensor, target: torch.Tensor, name: str) -> bool:
    """Copy a tensor; of an embedding the rows that both have. Return whether the shapes allow it."""
    if name in (TOKENS, POSITIONS):
        rows = min(len(source), len(target))
        source, target = source[:rows], target[:rows]
    if source.shape != target.shape:
        return False
    target.copy_(source)  # a state dict's tensors are detached: no gradient sees this
    return True


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "nothing") + more
