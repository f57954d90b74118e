"""Our GPT as a GPT-2 of the transformers package: the same function, in a folder that its classes load."""

from pathlib import Path
from typing import Any

import torch

from core.errors import ConfigError
from extras.hugging_face.packages import import_transformers
from model import GPT, GPTConfig

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new"}  # ours, and transformers' names
NEEDED = {"mode": "language_model", "attention_type": "causal", "position_encoding": "absolute"}


def to_gpt2(model: GPT) -> Any:
    """Return a GPT2LMHeadModel with the weights of a model; its logits are equal to the last bit.

    Linear layers of transformers' GPT-2 keep their weights transposed, and have biases: those that the model lacks are
    zero. Raises ConfigError for a model that is no GPT-2, or without the transformers package.
    """
    shape = model.config
    _require_gpt2(shape)
    transformers = import_transformers()
    config = transformers.GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.block_size,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        activation_function=ACTIVATIONS[getattr(shape, "activation", "gelu")],
        bos_token_id=None,
        eos_token_id=None,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), shape.dropout),
    )
    with torch.random.fork_rng():
        made = transformers.GPT2LMHeadModel(config)
    made.generation_config.max_length = shape.block_size  # there are no positions beyond
    ours = model.state_dict()
    with torch.no_grad():
        for name, target in made.state_dict().items():
            if name not in ours:
                target.zero_()  # a bias
            else:
                is_transposed = "c_" in name and name.endswith(".weight")
                target.copy_(ours[name].T if is_transposed else ours[name])
    return made.eval()


def write_folder(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model of transformers: weights, config, generation config, and the tokenizer's files.

    tokenizer: of transformers, or a processor, which holds one; None writes no files of one. The token that ends the
               texts of a tokenizer ends generation, too
    """
    end = getattr(tokenizer, "eos_token_id", None)
    if end is not None and model.config.eos_token_id is None:
        for config in (model.config, model.generation_config):
            config.bos_token_id = config.eos_token_id = end
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _require_gpt2(config: Any) -> None:
    """Raise ConfigError unless a model of this config is a GPT-2: a causal language model with learned positions."""
    if not isinstance(config, GPTConfig):
        raise ConfigError(f"the export is for models of coreGPT's model.py, got one with a {type(config).__name__}")
    for name, wanted in NEEDED.items():
        if (value := getattr(config, name, wanted)) != wanted:  # an older model.py of ours may lack one
            raise ConfigError(
                f"the model has {name}={value}, which a GPT-2 of transformers cannot have: wanted {wanted}"
            )
