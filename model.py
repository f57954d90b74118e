"""
The GPT in one file, with nanoGPT's parameter names and the same initialization, draw for draw.

Shapes: B batch, T time, C = n_embd, H heads, D = C / H head size, V vocabulary.

The constructors choose the architecture (attention type, positions, attention backend); the defaults give nanoGPT's
numbers bit for bit. This file has no training features.
"""

import importlib.util
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.commands import install_command
from core.errors import ConfigError

log = logging.getLogger("coregpt")

LARGEST_LOGIT = 1e3  # of a trained model
A100_FLOPS = 312e12  # bfloat16 peak, the reference of nanoGPT's MFU
GPT2_SIZES = {  # n_layer, n_head, n_embd
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
}
INIT_STD = 0.02
SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
CHOICES = {
    "attention_type": ("causal", "bidirectional"),
    "position_encoding": ("absolute", "rotary"),
    "activation": ("gelu", "gelu_tanh"),
    "mode": ("language_model", "token_classifier", "sequence_scorer"),
}


@dataclass
class GPTConfig:
    """The architecture of a GPT. The first seven fields are nanoGPT's."""

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024
    vocab_size: int = 50304  # GPT-2's 50257, rounded up to a multiple of 64 for speed
    bias: bool = True
    dropout: float = 0.0
    attention_type: str = "causal"  # or bidirectional
    position_encoding: str = "absolute"  # or rotary
    activation: str = "gelu"  # or gelu_tanh, OpenAI's approximation
    attention: str = "sdpa"  # or manual, flash; results differ only by rounding
    mode: str = "language_model"  # or token_classifier, sequence_scorer: the type of the head
    num_token_classes: int = 2  # for a token classifier
    cls_token_id: int | None = None  # for a sequence scorer: the first token, where the score is read

    def __post_init__(self) -> None:
        for name in SIZES:
            size = getattr(self, name)
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ConfigError(f"{name}={size!r}, wanted a whole number of 1 or more")
        for name, known in CHOICES.items():
            if (choice := getattr(self, name)) not in known:
                raise ConfigError(f"{name}={choice!r}, wanted {' or '.join(known)}")
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout <= 1:
            raise ConfigError(f"dropout={self.dropout!r}, wanted a number from 0 to 1")

    def num_params(self) -> int:
        """Return the number of parameters of a model of this architecture."""
        width = self.n_embd
        norm = 2 * width if self.bias else width
        layer = 12 * width * width + (9 * width if self.bias else 0) + 2 * norm
        positions = self.block_size if self.position_encoding == "absolute" else 0
        head = {"token_classifier": self.num_token_classes * width, "sequence_scorer": 2 * width + 2}
        return (self.vocab_size + positions) * width + self.n_layer * layer + norm + head.get(self.mode, 0)

    def kept_per_token(self) -> int:
        """Return how many numbers a training step keeps per token for its backward pass, at least."""
        logits = {"token_classifier": self.num_token_classes, "sequence_scorer": 0}.get(self.mode, self.vocab_size)
        return 8 * self.n_embd * self.n_layer + logits  # queries, keys, values, their result, and the MLP's inner layer


# Attention backends: q, k, v (B, H, T, D) -> (B, H, T, D)
Attend = Callable[[Tensor, Tensor, Tensor, bool, float], Tensor]


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    """Attend with PyTorch's fused kernels."""
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)


def manual_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    """Attend with plain tensor operations; a reference for the other backends."""
    scores = q @ k.mT / math.sqrt(q.size(-1))  # (B, H, T, T)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(diagonal=1)
        scores = scores.masked_fill(future, float("-inf"))
    return F.dropout(scores.softmax(dim=-1), p=dropout) @ v


def flash_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, dropout: float) -> Tensor:
    """Attend with the flash-attn package; tensors that it does not support (CPU, float32) use sdpa."""
    if not q.is_cuda or q.dtype == torch.float32:
        return sdpa_attention(q, k, v, causal, dropout)
    from flash_attn import flash_attn_func

    swapped = (tensor.transpose(1, 2) for tensor in (q, k, v))  # each (B, T, H, D)
    out: Tensor = flash_attn_func(*swapped, dropout_p=dropout, causal=causal)
    return out.transpose(1, 2)


def attention_backend(name: str) -> Attend:
    """Return the attention function `name`; flash falls back to sdpa with a warning if it cannot run."""
    if name == "flash" and (importlib.util.find_spec("flash_attn") is None or not torch.cuda.is_available()):
        log.warning("attention=flash needs a CUDA device and `pip install flash-attn`; using sdpa instead")
        name = "sdpa"
    return {"sdpa": sdpa_attention, "manual": manual_attention, "flash": flash_attention}[name]


def rotary_table(block_size: int, head_size: int) -> Tensor:
    """Return the cosines and sines of all rotation angles, (2, block_size, D), in the half-split layout."""
    frequencies = 1.0 / 10_000.0 ** (torch.arange(0, head_size, 2) / head_size)  # (D / 2)
    angles = torch.outer(torch.arange(block_size), frequencies).repeat(1, 2)  # (block_size, D)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Return queries or keys (B, H, T, D) rotated by position. Su et al. 2021, https://arxiv.org/abs/2104.09864"""
    cos, sin = table[0].to(x.dtype), table[1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def gelu_tanh(x: Tensor) -> Tensor:
    """Return the GELU of x in OpenAI's approximation. Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415

    Its operations are those of transformers, for equal bits; PyTorch's fused ones round differently.
    """
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3.0))))


class LayerNorm(nn.Module):
    """Layer normalization with an optional bias."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, eps=1e-5)


class SelfAttention(nn.Module):
    """Multi-head self-attention, causal or bidirectional."""

    def __init__(self, config: GPTConfig, attend: Attend) -> None:
        super().__init__()
        width, self.n_head, self.dropout = config.n_embd, config.n_head, config.dropout
        if width % self.n_head:
            raise ConfigError(f"n_embd={width} must be divisible by n_head={self.n_head}")
        self.c_attn = nn.Linear(width, 3 * width, bias=config.bias)
        self.c_proj = nn.Linear(width, width, bias=config.bias)
        self.resid_dropout = nn.Dropout(self.dropout)
        self.causal = config.attention_type == "causal"
        self.attend = attend

    def forward(self, x: Tensor, rotary: Tensor | None) -> Tensor:
        """Return (B, T, C) for x (B, T, C). rotary: the rotation table (2, T, D), or None"""
        B, T, C = x.shape
        qkv = self.c_attn(x).split(C, dim=2)
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in qkv)  # each (B, H, T, D)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        y = self.attend(q, k, v, self.causal, self.dropout if self.training else 0.0)  # (B, H, T, D)
        out: Tensor = self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))
        return out


class MLP(nn.Module):
    """Two linear layers with a GELU in between; the hidden layer is four times as wide."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width, inner = config.n_embd, 4 * config.n_embd
        self.c_fc = nn.Linear(width, inner, bias=config.bias)
        self.c_proj = nn.Linear(inner, width, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)
        self.activate = gelu_tanh if config.activation == "gelu_tanh" else F.gelu

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, C) for x (B, T, C), each position independently."""
        out: Tensor = self.dropout(self.c_proj(self.activate(self.c_fc(x))))
        return out


class Block(nn.Module):
    """A pre-norm transformer layer: attention, then MLP, each with a residual connection."""

    def __init__(self, config: GPTConfig, attend: Attend) -> None:
        super().__init__()
        self.ln_1, self.attn = LayerNorm(config.n_embd, config.bias), SelfAttention(config, attend)
        self.ln_2, self.mlp = LayerNorm(config.n_embd, config.bias), MLP(config)

    def forward(self, x: Tensor, rotary: Tensor | None) -> Tensor:
        """Return (B, T, C) for x (B, T, C). rotary: the rotation table (2, T, D), or None"""
        x = x + self.attn(self.ln_1(x), rotary)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class ScoreHead(nn.Module):
    """A linear layer, a learned slope and offset, and a sigmoid: one score between 0 and 1 per hidden state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1, bias=False)
        self.slope, self.offset = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (B,) of hidden states (B, C)."""
        scores: Tensor = (self.slope * self.linear(x) + self.offset).sigmoid()
        return scores.squeeze(-1)


class GPT(nn.Module):
    """A transformer that maps token ids (B, T) to logits (B, T, V) and a loss.

    `config.mode` selects another head on the same `transformer`: a token classifier returns logits (B, T, classes), a
    sequence scorer returns scores (B,) between 0 and 1.
    """

    rotary: Tensor | None

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        absolute = config.position_encoding == "absolute"
        parts: dict[str, nn.Module] = {"wte": nn.Embedding(config.vocab_size, config.n_embd)}
        if absolute:
            parts["wpe"] = nn.Embedding(config.block_size, config.n_embd)
        parts["drop"] = nn.Dropout(config.dropout)
        attend = attention_backend(config.attention)
        parts["h"] = nn.ModuleList(Block(config, attend) for _ in range(config.n_layer))
        parts["ln_f"] = LayerNorm(config.n_embd, config.bias)
        self.transformer = nn.ModuleDict(parts)
        if config.mode == "sequence_scorer":
            self.sequence_head = ScoreHead(config.n_embd)
            self.cls_embedding = nn.Parameter(torch.zeros(config.n_embd))  # not in `transformer`: never frozen
        elif config.mode == "token_classifier":
            self.lm_head = nn.Linear(config.n_embd, config.num_token_classes, bias=False)
        else:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
            self.transformer["wte"].weight = self.lm_head.weight  # weight tying

        self._init_weights()
        table = None if absolute else rotary_table(config.block_size, config.n_embd // config.n_head)
        self.register_buffer("rotary", table, persistent=False)
        print(f"number of parameters: {self.get_num_params() / 1e6:.2f}M")

    def _init_weights(self) -> None:
        """Initialize the weights as GPT-2 does. The order of draws is nanoGPT's: the tied matrix is drawn twice."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                nn.init.normal_(layer.weight, std=INIT_STD)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        # every layer adds to the residual stream twice; this keeps the variance of the stream constant
        for name, weight in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(weight, std=INIT_STD / math.sqrt(2 * self.config.n_layer))
        if self.config.mode == "sequence_scorer":
            nn.init.normal_(self.cls_embedding, std=INIT_STD)
            nn.init.normal_(self.sequence_head.linear.weight, std=INIT_STD / 2)  # initial scores are close to 0.5

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return (logits, loss). The loss ignores positions whose target is -1.

        Without targets the loss is None, and a causal model returns logits for the last position only, (B, 1, V); a
        bidirectional model returns logits for all positions. A sequence scorer takes targets (B,); its loss is the
        mean squared error.
        """
        T = idx.size(1)
        assert self.config.block_size >= T, f"{T} tokens do not fit block_size={self.config.block_size}"
        x = self.transformer["wte"](idx)  # (B, T, C)
        if self.config.mode == "sequence_scorer":
            is_cls = torch.eq(idx, self.config.cls_token_id)  # type: ignore[arg-type]
            x = torch.where(is_cls[..., None], self.cls_embedding, x)  # (B, T, C)
        rotary = None
        if self.rotary is None:
            x = x + self.transformer["wpe"](torch.arange(T, device=idx.device))
        else:
            rotary = self.rotary[:, :T]
        x = self.transformer["drop"](x)
        for block in self.transformer["h"]:  # type: ignore[attr-defined]
            x = block(x, rotary)
        x = self.transformer["ln_f"](x)  # (B, T, C)

        if self.config.mode == "sequence_scorer":
            scores = self.sequence_head(x[:, 0])  # (B,)
            return scores, None if targets is None else F.mse_loss(scores, targets)
        if targets is not None:
            logits = self.lm_head(x)  # (B, T, V)
            return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        if self.config.attention_type == "causal":
            x = x[:, [-1]]
        return self.lm_head(x), None

    def get_num_params(self, non_embedding: bool = True) -> int:
        """Return the number of parameters, by default without the position embeddings."""
        count = sum(parameter.numel() for parameter in self.parameters())
        if non_embedding and "wpe" in self.transformer:
            count -= self.transformer["wpe"].weight.numel()  # type: ignore[operator]
        return count

    def crop_block_size(self, block_size: int) -> None:
        """Shorten the context to the first `block_size` positions."""
        assert block_size <= self.config.block_size
        self.config.block_size = block_size
        if self.rotary is None:
            positions: Any = self.transformer["wpe"]
            positions.weight = nn.Parameter(positions.weight.detach()[:block_size].clone())
        else:
            self.rotary = self.rotary[:, :block_size]

    @classmethod
    def from_pretrained(cls, model_type: str, override_args: dict[str, Any] | None = None) -> "GPT":
        """Return a GPT-2 with OpenAI's weights, by name (gpt2 ... gpt2-xl) or from a local Hugging Face folder.

        override_args: values for `dropout`, `attention` and `activation`
        Raises ConfigError if the transformers package or weights are missing, or the head is not tied.
        """
        overrides = override_args or {}
        assert set(overrides) <= {"dropout", "attention", "activation"}, f"cannot override {sorted(overrides)}"
        try:
            from safetensors import SafetensorError
            from transformers import GPT2Config, GPT2LMHeadModel
        except ImportError:
            raise ConfigError(f"GPT-2 weights need the transformers package: {install_command('hf')}") from None
        print(f"loading weights from pretrained gpt: {model_type}")
        try:
            sizes = _gpt2_sizes(model_type, GPT2Config)
            print("forcing vocab_size={vocab_size}, block_size={block_size}, bias={bias}".format(**sizes))
            if "dropout" in overrides:
                print(f"overriding dropout rate to {overrides['dropout']}")
            model = cls(GPTConfig(**sizes, **overrides))
            source, report = GPT2LMHeadModel.from_pretrained(model_type, output_loading_info=True)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"cannot load the weights of {model_type!r} from the hub or a folder: {reason}") from None
        except (RuntimeError, UnpicklingError, SafetensorError) as error:
            reason = "damaged, or of other sizes than config.json says"
            raise ConfigError(f"the weights of {model_type!r} are {reason}: download the model again") from error
        theirs = source.state_dict()
        # transformers draws weights that it does not find at random
        if lacking := sorted(name for name in report["missing_keys"] if name in theirs and name != "lm_head.weight"):
            raise ConfigError(f"the weights of {model_type!r} lack {', '.join(lacking[:3])}: download the model again")
        if not torch.equal(theirs["lm_head.weight"], theirs["transformer.wte.weight"]):
            raise ConfigError(f"the weights of {model_type!r} have an untied head, wanted lm_head.weight equal to wte")
        model._copy_gpt2(theirs)
        original = "gelu" if source.config.activation_function in ("gelu", "gelu_python") else "gelu_tanh"
        if model.config.activation != original:
            log.info(f"{model_type}: activation={original} computes the function that these weights were trained with")
        return model

    @torch.no_grad()
    def _copy_gpt2(self, theirs: dict[str, Tensor]) -> None:
        """Copy Hugging Face's tensors by name; their Conv1D weights are (in, out), ours are (out, in)."""
        ours = self.state_dict()
        missing = set(ours) - set(theirs)
        assert not missing, f"the pretrained weights lack {sorted(missing)}"
        for name, tensor in ours.items():
            is_conv1d = "c_" in name and name.endswith(".weight")
            tensor.copy_(theirs[name].T if is_conv1d else theirs[name])

    def configure_optimizers(
        self, weight_decay: float, learning_rate: float, betas: tuple[float, float], device_type: str
    ) -> torch.optim.AdamW:
        """Return AdamW over the trainable parameters; weight decay applies to matrices and embeddings only."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        decay = [parameter for parameter in trainable if parameter.dim() >= 2]
        rest = [parameter for parameter in trainable if parameter.dim() < 2]
        for kind, group in (("decayed", decay), ("non-decayed", rest)):
            size = sum(parameter.numel() for parameter in group)
            print(f"num {kind} parameter tensors: {len(group)}, with {size:,} parameters")
        fused = device_type == "cuda"
        groups = [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, **({"fused": True} if fused else {}))
        print(f"using fused AdamW: {fused}")
        return optimizer

    def estimate_mfu(self, fwdbwd_per_iter: float, dt: float) -> float:
        """Return the model FLOPs utilization (MFU) as a fraction of an A100's bfloat16 peak.

        fwdbwd_per_iter: sequences per iteration; dt: seconds per iteration.
        Counts 6 FLOPs per parameter and token, plus attention: PaLM, appendix B, https://arxiv.org/abs/2204.02311
        """
        shape = self.config
        attention = 12 * shape.n_layer * shape.n_embd * shape.block_size
        per_sequence = (6 * self.get_num_params() + attention) * shape.block_size
        return per_sequence * fwdbwd_per_iter * (1.0 / dt) / A100_FLOPS

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
        """Return token ids (B, T + max_new_tokens): `idx` (B, T) continued by sampling one token at a time.

        temperature: 0 takes the most likely token (greedy decoding)
        top_k: sample from the k most likely tokens; None or 0: from all tokens

        Put the model in evaluation mode first.
        """
        for _ in range(max_new_tokens):
            logits, _ = self(idx[:, -self.config.block_size :])
            logits = logits[:, -1]  # (B, V)
            if temperature < LARGEST_LOGIT / torch.finfo(logits.dtype).max:  # the quotient would overflow
                drawn = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
            else:
                scores = logits / temperature
                if top_k:
                    weakest = scores.topk(min(top_k, scores.size(-1))).values[:, [-1]]
                    scores = scores.masked_fill(scores < weakest, float("-inf"))
                drawn = torch.multinomial(scores.softmax(dim=-1), num_samples=1)
            idx = torch.cat([idx, drawn], dim=1)
        return idx


def _gpt2_sizes(model_type: str, config_class: Any) -> dict[str, Any]:
    """Return the GPTConfig arguments of a GPT-2: built in for the four known names, else read from the folder."""
    if model_type in GPT2_SIZES:
        n_layer, n_head, n_embd = GPT2_SIZES[model_type]
        vocab_size, block_size = 50257, 1024
    else:
        theirs = config_class.from_pretrained(model_type)
        n_layer, n_head, n_embd = theirs.n_layer, theirs.n_head, theirs.n_embd
        vocab_size, block_size = theirs.vocab_size, theirs.n_positions
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd}
    return {**shape, "vocab_size": vocab_size, "block_size": block_size, "bias": True}
