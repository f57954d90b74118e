"""A model of the transformers package, called, trained and sampled like our own GPT."""

import inspect
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.optimizer import make_adamw
from extras.hugging_face.processor import takes_images
from extras.token_draw import draw_tokens

A100_FLOPS = 312e12  # bfloat16 peak, the reference of nanoGPT's MFU
LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "seq_length",
)  # names of the longest context
UNLIMITED = 2**30  # the block_size of a model with relative positions


@dataclass
class Shape:
    """The sizes of a model under nanoGPT's names. block_size: the longest context, or the one it is trained with"""

    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """Return the sizes that a config of transformers names."""
        text = config.get_text_config()
        lengths = (getattr(text, name, None) for name in LENGTHS)
        longest = next((length for length in lengths if isinstance(length, int) and length > 0), UNLIMITED)
        return cls(
            longest, text.vocab_size, text.num_hidden_layers, getattr(text, "num_attention_heads", 0), text.hidden_size
        )


class HuggingFaceModel(nn.Module):
    """A model of transformers behind the contract of `model.GPT`: causal, of images and text, or with an encoder.

    transformer: the model of transformers; parameter names begin with `transformer.`, as those of a GPT's body do
    config:      its sizes; a model of transformers itself has another one, which stays as it was loaded
    leaves_weights_unused: such as a Llava, which reads the images of an inner layer
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer
        self.config = Shape.of(transformer.config)
        self.leaves_weights_unused = takes_images(transformer.config)
        if takes_images(transformer.config):  # Mllama reads ids of images that its head does not write
            self.config.vocab_size = max(self.config.vocab_size, transformer.get_input_embeddings().num_embeddings)
        takes = inspect.signature(transformer.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    @property
    def has_encoder(self) -> bool:
        """Whether the model reads a text with an encoder, and writes another one."""
        return bool(self.transformer.config.is_encoder_decoder)

    def forward(self, idx: Tensor | None = None, targets: Tensor | None = None, **inputs: Tensor) -> Any:
        """Return (logits, loss) for token ids and targets, each (B, T). The loss ignores positions whose target is -1.

        Without targets the loss is None, and the logits are those of the last position, (B, 1, V). With `inputs` of
        transformers by name in place of ids, return the logits (B, T, V) alone: see `logits`.
        """
        if idx is None:
            return self.logits(**inputs)
        if targets is None:
            logits = self.transformer(input_ids=idx, use_cache=False, **self._last_only).logits
            return logits[:, [-1]], None
        logits = self.transformer(input_ids=idx, use_cache=False).logits  # (B, T, V)
        return logits, F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1)

    def logits(self, labels: Tensor, **inputs: Tensor) -> Tensor:
        """Return the logits (B, T, V) of a batch of labelled rows; of a decoder, those that predict the labels (B, T).

        inputs: what the model of transformers takes, such as input_ids and attention_mask, or pixel_values
        """
        if self.has_encoder:  # the start token, then all labels but the last; padding in place of -100
            inputs["decoder_input_ids"] = self.transformer.prepare_decoder_input_ids_from_labels(labels=labels)
        found: Tensor = self.transformer(**inputs, use_cache=False).logits
        return found

    def get_num_params(self) -> int:
        """Return the number of parameters; tied ones count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def crop_block_size(self, block_size: int) -> None:
        """Train and sample with a shorter context; the weights stay as they are."""
        assert block_size <= self.config.block_size
        self.config.block_size = block_size

    def configure_optimizers(
        self, weight_decay: float, learning_rate: float, betas: tuple[float, float], device_type: str
    ) -> torch.optim.AdamW:
        """Return AdamW over the trainable parameters; tensors of two or more dimensions decay."""
        fused = device_type in ("cuda", "cpu")
        return make_adamw(self, weight_decay, learning_rate, betas, fused=fused)

    def estimate_mfu(self, fwdbwd_per_iter: float, dt: float) -> float:
        """Return the FLOPs of `fwdbwd_per_iter` sequences in `dt` seconds as a fraction of an A100's bfloat16 peak."""
        shape = self.config
        per_token = 6 * self.get_num_params() + 12 * shape.n_layer * shape.n_embd * shape.block_size
        return per_token * shape.block_size * fwdbwd_per_iter / dt / A100_FLOPS

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
        """Return token ids (B, T + max_new_tokens): `idx` (B, T) continued by sampling one token at a time.

        A model with an encoder answers: its answer follows the prompt, and may be shorter.
        """
        if self.has_encoder:
            end = self.transformer.config.eos_token_id
            if isinstance(end, int) and idx[0, -1] != end:  # as the encoder has learnt to read
                prompt = torch.cat([idx, idx.new_full((len(idx), 1), end)], dim=1)
            else:
                prompt = idx
            answer = self.transformer.generate(prompt, max_new_tokens=max_new_tokens, **_draws(temperature, top_k))
            return torch.cat([idx, answer[:, 1:]], dim=1)  # without the start token
        for _ in range(max_new_tokens):
            logits, _ = self(idx[:, -self.config.block_size :])
            drawn = draw_tokens(logits[:, -1], None, temperature, top_k)  # (B,)
            idx = torch.cat([idx, drawn[:, None]], dim=1)
        return idx

    @torch.no_grad()
    def answer(
        self, inputs: dict[str, Tensor], max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None
    ) -> Tensor:
        """Return the token ids (T,) that follow a text with images, until the model ends its turn.

        inputs: one row, as the model's processor makes it
        """
        draws = _draws(temperature, top_k)
        written: Tensor = self.transformer.generate(**inputs, max_new_tokens=max_new_tokens, **draws)
        return written[0, inputs["input_ids"].size(1) :]

    def model_args(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the architecture: the sizes, and transformers' own configs."""
        found = {**vars(self.config), "hugging_face": json.loads(self.transformer.config.to_json_string())}
        if generation := getattr(self.transformer, "generation_config", None):
            found["generation_config"] = json.loads(generation.to_json_string())
        return found


def _draws(temperature: float, top_k: int | None) -> dict[str, Any]:
    """Return how transformers' `generate` draws a token."""
    return {"do_sample": True, "temperature": temperature, "top_k": top_k or 0} if temperature else {"do_sample": False}
