"""Checkpoints of the train_run line and the core line, made from coreGPT models."""

import enum
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.optimizer import load_optimizer_state
from model import GPT, GPTConfig

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 32, "bias": False, "dropout": 0.0}
BIDIRECTIONAL = {"attention_type": "bidirectional", "position_encoding": "rotary"}
SCORER = {
    **BIDIRECTIONAL,
    "mode": "sequence_scorer",
    "cls_token_id": 22,
}  # 17 characters and 5 special tokens come before CLS
HEAD = {"linear.weight": "base_predictor.weight", "slope": "A", "offset": "B"}  # in the core line
State = dict[str, Any]


class ModelMode(enum.Enum):
    """The enum of the legacy programs, with its legacy name."""

    LANGUAGE_MODEL = "language_model"
    SEQUENCE_SCORER = "sequence_scorer"


@dataclass
class StickyStageConfig:
    """A stage, which one script of the train_run line saves as its config."""

    val_loss_stale_count: int
    target_masked_ratio: float


def our_model(**args: Any) -> GPT:
    """Return a coreGPT model with random numbers in every tensor."""
    model = GPT(GPTConfig(**{**SIZES, **args}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def body(model: GPT) -> State:
    """Return the tensors of the transformer in the legacy order: positions last."""
    state = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("transformer.")}
    return dict(sorted(state.items(), key=lambda item: "wpe" in item[0]))


def adamw(groups: list[list[str]], state: State, idle: tuple[str, ...] = (), weight_decay: float = 0.1) -> State:
    """Return AdamW's state after 7 steps; the moments of every tensor are different."""
    names = [name for group in groups for name in group]
    moments = {
        number: {"step": torch.tensor(7.0), "exp_avg": mark(name, state[name]), "exp_avg_sq": mark(name, state[name])}
        for number, name in enumerate(names)
        if name not in idle
    }
    settings = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "amsgrad": False, "maximize": False, "foreach": None}
    return {
        "state": moments,
        "param_groups": [
            {
                **settings,
                "weight_decay": weight_decay if index % 2 == 0 else 0.0,
                "params": list(map(names.index, group)),
            }
            for index, group in enumerate(groups)
        ],
    }


def mark(name: str, tensor: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(sum(map(ord, name)) + tensor.numel())
    return torch.rand(tensor.shape, generator=draw) + 1.0


def by_dims(names: list[str], state: State) -> list[list[str]]:
    return [[name for name in names if (state[name].dim() >= 2) == decays] for decays in (True, False)]


def train_run(gpt: GPT, **changes: Any) -> State:
    """Return a language model's checkpoint of the train_run line."""
    state = OrderedDict({**body(gpt), "lm_head.weight": gpt.lm_head.weight.detach()})
    names = list(state)[:-1]
    return {
        "model": state,
        "optimizer": adamw(by_dims(names, state), state),
        "model_args": {
            **SIZES,
            "attention_type": gpt.config.attention_type,
            "use_rope": gpt.config.position_encoding == "rotary",
            "mode": ModelMode.LANGUAGE_MODEL,
            "num_token_classes": 2,
            "cls_token_id": None,
            "freeze_transformer": False,
            "unfreeze_lr_multiplier": 1,
        },
        "iter_num": 7,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "tiny", "training_type": "unmasking"},
        "training_context": {
            "current_stage": 1,
            "val_loss_stale_count": 3,
            "best_val_loss_for_stage": torch.tensor(1.5),
            "entropy_multiplier_ema": torch.tensor(1.25, requires_grad=True),
        },
        **changes,
    }


def train_run_scorer(model: GPT) -> State:
    """Return a scorer's checkpoint of the train_run line: CLS is a row of the token embedding."""
    state = {**body(model), "sequence_head.0.weight": model.sequence_head.linear.weight.detach()}
    state["transformer.wte.weight"][22] = model.cls_embedding.detach()
    args = {
        **train_run(our_model())["model_args"],
        "use_rope": True,
        "mode": ModelMode.SEQUENCE_SCORER,
        "cls_token_id": 22,
    }
    return train_run(
        our_model(), model=state, optimizer=adamw(by_dims(list(state), state), state), model_args=args
    )  # fmt: skip


def core_scorer(model: GPT, optimizer: str) -> State:
    """Return a scorer's checkpoint of the core line. optimizer: its phase, `frozen` or `unfrozen`"""
    head = {f"sequence_head.{HEAD[name]}": tensor for name, tensor in model.sequence_head.state_dict().items()}
    head = {"sequence_head.temperature": torch.full((1,), 2.0), **head}
    state = {"cls_embedding": model.cls_embedding.detach(), **body(model), **head}
    head_names = [name for name in state if not name.startswith("transformer.")]
    groups = by_dims(head_names, state)
    if optimizer == "unfrozen":
        groups += by_dims([name for name in state if name not in head_names], state)
    args = {**SIZES, **BIDIRECTIONAL, "mode": ModelMode.SEQUENCE_SCORER, "cls_token_id": 22, "freeze_transformer": True}
    return {
        "model": state,
        "optimizer": adamw(groups, state, idle=("sequence_head.temperature",)),
        "model_args": {**args, "unfreeze_lr_multiplier": 0.5},
        "iter_num": 9,
        "best_val_loss": 0.25,
        "config": {"dataset": "sequence_scorer", "meta": {"training_type": "SEQUENCE_SCORING"}},
    }


def core_newest(model: GPT, scorer: GPT, **config: Any) -> State:
    """Return a checkpoint of the newest core line: every model has both heads, and may have a critic."""
    scorer_state = core_scorer(scorer, "frozen")["model"]
    state = {
        "cls_embedding": scorer_state["cls_embedding"], **body(model), "lm_head.weight": model.lm_head.weight.detach(),
        **{name: scorer_state[name] for name in scorer_state if name.startswith("sequence_head.")},
        "critic_head.weight": torch.ones(1, 32),
    }  # fmt: skip
    names = [name for name in state if name != "lm_head.weight"]
    idle = tuple(name for name in names if not name.startswith("transformer."))
    return {
        "model": {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        "optimizer": adamw(by_dims(names, state), state, idle),
        "model_args": {**SIZES, "cls_token_id": 22, "use_guidance": False, "use_lora_attn": False, "lora_rank": 8},
        "iter_num": 11,
        "best_val_loss": 1.5,
        "config": {"model_mode": "language_model", **config},
    }


def as_read(old: State) -> State:
    """Return a checkpoint as `read` returns it."""
    args, context = dict(old["model_args"]), {**old["training_context"], "entropy_multiplier_ema": torch.tensor(1.25)}
    return {**old, "model_args": {**args, "mode": args["mode"].value}, "training_context": context}


def outputs(args: State, weights: State, scores: bool = False) -> Tensor:
    model = GPT(GPTConfig(**args))
    model.load_state_dict(weights)
    ids = torch.randint(17, (4, 16), generator=torch.Generator().manual_seed(3))
    if scores:
        ids[:, 0] = 22
    with torch.no_grad():
        return model.eval()(ids, None if scores else ids % 3)[0]


def loaded_moments(model: GPT, optimizer: torch.optim.Optimizer, state: State) -> dict[str, State]:
    load_optimizer_state(optimizer, state)
    return {name: optimizer.state[parameter] for name, parameter in model.named_parameters()}


def converted_model(checkpoint: State) -> GPT:
    model = GPT(GPTConfig(**checkpoint["model_args"]))
    model.load_state_dict(checkpoint["model"])
    return model
