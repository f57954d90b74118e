"""Converts model_args and weights of the train_run line and the core line."""

import contextlib
import io
import re
from typing import Any

import torch
from torch import nn

from core.checkpoint.format import handle_state_dict_prefixes
from core.errors import CheckpointError, ConfigError
from wiring.architecture import load_architecture

State = dict[str, Any]

LANGUAGE_MODEL, TOKEN_CLASSIFIER, SEQUENCE_SCORER = MODES = ("language_model", "token_classifier", "sequence_scorer")
SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
TOKENS, LM_HEAD = "transformer.wte.weight", "lm_head.weight"
RENAMED = {
    "sequence_head.0.weight": "sequence_head.linear.weight",  # of the train_run line
    "sequence_head.base_predictor.weight": "sequence_head.linear.weight",
    "sequence_head.A": "sequence_head.slope",
    "sequence_head.B": "sequence_head.offset",
}
BUFFERS = re.compile(r"\.(rotary_emb\.(inv_freq|cos_cached|sin_cached)|attn\.(masked_)?bias|_dummy)$")
UNSUPPORTED = {"LoRA layers": r"\.lora_", "a plan encoder or its guidance": r"^plan_encoder\.|\.(cross|ln_cross)\."}


def legacy_weights(old: State) -> State:
    """Return the weights of a legacy checkpoint under their old names, without buffers.

    Raises CheckpointError if it has parts that our model lacks.
    """
    state = {
        name: tensor
        for name, tensor in handle_state_dict_prefixes(old["model"]).items()
        if not BUFFERS.search(name) or not name.startswith("transformer.")
    }
    for what, pattern in UNSUPPORTED.items():
        if name := next((name for name in state if re.search(pattern, name)), None):
            raise CheckpointError(
                f"the checkpoint has {what} ({name}), which this program's model lacks: train without, or merge the "
                "weights with the program that made the checkpoint"
            )
    return state


def is_tied(state: State) -> bool:
    """Return whether lm_head has the weights of the token embedding."""
    return TOKENS in state and LM_HEAD in state and torch.equal(state[TOKENS], state[LM_HEAD])


def convert_model_args(old: State, state: State, config: State, mode: str | None) -> State:
    """Return our model_args, without arguments that have their default value.

    old:    the legacy model_args
    state:  the legacy weights
    config: the legacy options
    mode:   choice of the user for a model with two heads; None keeps the mode that it was trained in
    """
    if missing := [name for name in SIZES if not isinstance(old.get(name), int)]:
        raise CheckpointError(f"the checkpoint's model_args lack {', '.join(missing)}")
    has_both_heads = LM_HEAD in state and "sequence_head.base_predictor.weight" in state
    trained_mode = _trained_mode(old, config, has_both_heads)
    if mode not in (None, trained_mode) and not (has_both_heads and mode in (LANGUAGE_MODEL, SEQUENCE_SCORER)):
        raise ConfigError(f"--mode={mode}: this checkpoint is a {trained_mode}, and has no other head")
    mode = mode or trained_mode
    if mode not in MODES:
        raise CheckpointError(f"the checkpoint is a {mode}, wanted one of {', '.join(MODES)}")
    args = {**{name: old[name] for name in SIZES}, "bias": old.get("bias", True), "dropout": old.get("dropout", 0.0)}
    if mode != LANGUAGE_MODEL or has_both_heads or old.get("attention_type") == "bidirectional":
        args["attention_type"] = "bidirectional"
    if "transformer.wpe.weight" not in state:
        args["position_encoding"] = "rotary"
    if mode != LANGUAGE_MODEL:
        args["mode"] = mode
    if mode == TOKEN_CLASSIFIER and LM_HEAD in state:
        args["num_token_classes"] = len(state[LM_HEAD])
    if mode == SEQUENCE_SCORER:
        args["cls_token_id"] = old.get("cls_token_id")
        if not isinstance(args["cls_token_id"], int) or not 0 <= args["cls_token_id"] < args["vocab_size"]:
            raise CheckpointError(
                f"the scorer's cls_token_id is {args['cls_token_id']}, wanted a token of its vocabulary of "
                f"{args['vocab_size']}: the score is read at the CLS token"
            )
    return args


def _trained_mode(old: State, config: State, has_both_heads: bool) -> str:
    """Return the mode that a legacy model was trained in, from its model_args and options."""
    mode = str(old.get("mode") or (has_both_heads and config.get("model_mode")) or LANGUAGE_MODEL).lower()
    if old.get("binary_classification") and mode == LANGUAGE_MODEL:
        mode = TOKEN_CLASSIFIER
    if has_both_heads and mode == TOKEN_CLASSIFIER:  # a version with both heads warns, and trains a language model
        mode = LANGUAGE_MODEL
    return mode


def training_type(args: State, legacy_type: Any) -> str:
    """Return our training_type of a model.

    Language models with bidirectional attention, or with the legacy type `unmasking`, predict masked tokens.
    """
    by_mode = {TOKEN_CLASSIFIER: "token_classification", SEQUENCE_SCORER: "sequence_scoring"}
    is_unmasking = legacy_type == "unmasking" or args.get("attention_type") == "bidirectional"
    return by_mode.get(args.get("mode", ""), "unmasking" if is_unmasking else "language_model")


def empty_model(args: State) -> nn.Module:
    """Return our model without storage, for the names, the order and the shapes of its parameters.

    Raises ConfigError if model.py is a fork's.
    """
    architecture = load_architecture()
    if not architecture.is_ours:
        raise ConfigError(
            "model.py is not coreGPT's, which the weights are converted for: put coreGPT's in its place to convert"
        )
    try:
        with torch.device("meta"), contextlib.redirect_stdout(io.StringIO()):
            return architecture.model_class(architecture.config_class(**args))  # type: ignore[no-any-return]
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(f"no model can be made from the checkpoint's model_args: {error}") from None


def convert_weights(state: State, args: State, model: nn.Module) -> tuple[State, list[str]]:
    """Return the weights under our names, and notes on weights that were dropped or added.

    Raises CheckpointError if they do not fit our model.
    """
    wanted = model.state_dict()
    weights = {RENAMED.get(name, name): tensor for name, tensor in state.items()}
    if wanted.keys() >= {LM_HEAD, TOKENS} and "mode" not in args and not is_tied(state):
        raise CheckpointError("lm_head.weight is not the token embedding, as it is in this program's language models")
    added, notes = _missing_scorer_weights(weights, args)
    weights |= added
    dropped = [name for name in state if RENAMED.get(name, name) not in wanted]
    wrong = [
        *(f"{name} is missing" for name in wanted if name not in weights),
        *(f"{name} is not known" for name in dropped if name.startswith("transformer.")),
        *(
            f"{name} has shape {tuple(weights[name].shape)}, wanted {tuple(wanted[name].shape)}"
            for name in wanted
            if name in weights and weights[name].shape != wanted[name].shape
        ),
    ]
    if wrong:
        raise CheckpointError(f"the weights do not fit this program's model: {'; '.join(wrong[:5])}")
    if dropped := [name for name in dropped if name != LM_HEAD or not is_tied(state)]:
        notes.append(f"dropped, because this program does not use them: {', '.join(dropped)}")
    return {name: weights[name] for name in wanted}, notes


def _missing_scorer_weights(weights: State, args: State) -> tuple[State, list[str]]:
    """Return the weights that our sequence scorer has and the checkpoint lacks, and a note on them."""
    added: State = {}
    notes: list[str] = []
    if args.get("mode") == SEQUENCE_SCORER:
        if "sequence_head.slope" not in weights:
            added |= {"sequence_head.slope": torch.ones(1), "sequence_head.offset": torch.zeros(1)}
            notes.append("the slope and offset of the score are new; they do not change the score yet")
        if "cls_embedding" not in weights and TOKENS in weights:
            added["cls_embedding"] = weights[TOKENS][args["cls_token_id"]].clone()
    return added, notes
