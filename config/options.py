"""
Every option, declared once: name, type, default, meaning, bounds.

The names and defaults are nanoGPT's where it has the option. Sections are headings for the reader, for `--help SECTION`
and for YAML files; on the command line and in `.py` files every option goes by its flat name.
"""

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from config.schema import Schema, section


def best_dtype() -> str:
    """Return nanoGPT's default precision: bfloat16 on a GPU that has it, else float16 (which a CPU ignores)."""
    import torch

    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float16"


Dtype = Literal["float32", "bfloat16", "float16"]


class Options(Schema):
    """What `train.py` can be told."""

    opt = section("run")
    out_dir: str = opt("out", "folder for checkpoints and logs")
    init_from: str = opt("scratch", "scratch, resume (from out_dir), auto (resume if there is something good to resume, else scratch), gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder with a Hugging Face GPT-2")
    resume_rng: Literal["exact", "reseed"] = opt("exact", "on resume: go on with the saved random state and batch, or reseed and evaluate again as nanoGPT does")
    eval_only: bool = opt(False, "stop after the first evaluation; no checkpoint and no metrics are written")
    training_type: Literal["language_model"] = opt("language_model", "what the model learns")
    seed: int = opt(1337, "seed of all random draws; each process adds its rank", ge=0, le=2**62)

    opt = section("evaluation")
    eval_interval: int = opt(2000, "iterations from one evaluation to the next", ge=1)
    eval_iters: int = opt(200, "batches per split in an evaluation", ge=1)
    eval_rng: Literal["shared", "isolated"] = opt("shared", "shared: evaluations draw from training's random stream, as in nanoGPT; isolated: from one of their own, so that they change nothing in training and see the same batches each time")

    opt = section("checkpoints")
    always_save_checkpoint: bool = opt(True, "save after every evaluation, not only when the validation loss improves")
    save_interval: int = opt(0, "save every n-th iteration as well; 0 saves after evaluations and at the end only", ge=0)
    save_minutes: float = opt(0.0, "save when this many minutes have passed since the last save; 0 does not look at the clock", ge=0)
    keep_last: int = opt(2, "newest checkpoints to keep", ge=1)
    keep_best: int = opt(1, "checkpoints of the lowest validation loss to keep beside them", ge=0)
    async_save: bool = opt(False, "write checkpoints in the background, from a copy in memory, while training goes on")
    time_limit: float | None = opt(None, "hours after which to save and stop with status 75, so that a scheduler can run it again", gt=0)

    opt = section("logging")
    log_interval: int = opt(1, "iterations from one log line to the next", ge=1)
    wandb_log: bool = opt(False, "log to Weights & Biases as well")
    wandb_project: str | None = opt("owt", "Weights & Biases project")
    wandb_run_name: str | None = opt("gpt2", "Weights & Biases run name; None lets it choose one")
    wandb_log_interval: int = opt(0, "send every n-th iteration's step as well, of those that are logged; 0 sends evaluations only, as nanoGPT", ge=0)

    opt = section("data")
    dataset: str = opt("openwebtext", "folder under data/ that holds train.bin, val.bin and perhaps meta.pkl")

    opt = section("model")
    n_layer: int = opt(12, "transformer blocks", ge=1)
    n_head: int = opt(12, "attention heads", ge=1)
    n_embd: int = opt(768, "width of the residual stream", ge=1)
    block_size: int = opt(1024, "tokens the model sees at once", ge=1)
    dropout: float = opt(0.0, "share of activations dropped while training", ge=0, lt=1)
    bias: bool = opt(False, "biases in the Linear and LayerNorm layers")
    attention_type: Literal["causal", "bidirectional"] = opt("causal", "which positions a token may attend to")
    position_encoding: Literal["absolute", "rotary"] = opt("absolute", "learned positions added, or queries and keys rotated")
    attention: Literal["sdpa", "manual", "flash"] = opt("sdpa", "implementation of attention; flash needs the flash-attn package and a GPU")

    opt = section("training")
    batch_size: int = opt(12, "sequences per micro-batch and process", ge=1)
    gradient_accumulation_steps: int = opt(40, "micro-batches per update, over all processes together", ge=1)
    max_iters: int | float = opt(600_000, "last iteration; nanoGPT counts from 0, so one update more is made", ge=0)
    grad_clip: float = opt(1.0, "largest gradient norm; 0 disables clipping", ge=0, allow_inf_nan=True)

    opt = section("stability")
    on_instability: Literal["recover", "stop", "skip", "warn"] = opt("recover", "what to do when a loss, gradient or weight is not finite, or spikes: go back to the last healthy checkpoint and leave that batch out; stop; leave that update out; or only say so and train on")
    max_recoveries: int = opt(3, "recoveries (with skip: updates left out in a row) after which the run stops with a diagnosis", ge=0)
    recovery_skip: int = opt(0, "updates before and after the offending one whose batches are left out as well", ge=0)
    recovery_lr_factor: float = opt(1.0, "every recovery multiplies the learning rate by this for the rest of the run", gt=0, le=1)
    spike_threshold: float = opt(0.0, "robust standard deviations above the recent median at which a loss or gradient norm counts as unstable; 0 looks for no spikes; sound runs can exceed 12", ge=0)
    spike_window: int = opt(100, "updates that the recent median is taken of", ge=8)

    opt = section("optimizer")
    learning_rate: float = opt(6e-4, "peak learning rate, reached after the warm-up", ge=0)
    weight_decay: float = opt(0.1, "decay of tensors with two or more dimensions", ge=0)
    beta1: float = opt(0.9, "AdamW's decay of the mean gradient", ge=0, lt=1)
    beta2: float = opt(0.95, "AdamW's decay of the mean squared gradient", ge=0, lt=1)

    opt = section("schedule")
    decay_lr: bool = opt(True, "warm up and decay the learning rate; False keeps it constant")
    warmup_iters: int | float = opt(2000, "iterations of linear warm-up", ge=0)
    lr_decay_iters: int | float = opt(600_000, "iteration at which the cosine reaches min_lr; usually max_iters", ge=0)
    min_lr: float = opt(6e-5, "final learning rate; usually learning_rate / 10", ge=0)

    opt = section("system")
    device: str = opt("cuda", "cuda, cuda:1, mps, cpu; plain cuda gives way to mps or cpu where there is none")
    dtype: Dtype = opt(best_dtype, "precision of matrix products; bfloat16 on a GPU that has it, else float16; a CPU computes in float32")
    cpu_autocast: bool = opt(False, "let dtype=bfloat16 take effect on a CPU as well")
    compile: bool = opt(True, "compile the model with torch.compile")
    backend: Literal["nccl", "gloo", "mpi", "ucc"] = opt("nccl", "transport between processes; a CPU takes gloo")
    del opt

    ALIASES: ClassVar[Any] = {
        # nanoGPT forks
        "model_mode": ("training_type", None),
        "use_rope": ("position_encoding", {True: "rotary", False: "absolute"}),
        # sections of YAML files that were written for other trainers
        "optimization.learning_rate": ("learning_rate", None),
        "optimization.weight_decay": ("weight_decay", None),
        "optimization.max_grad_norm": ("grad_clip", None),
        "optimization.warmup_steps": ("warmup_iters", None),
        "training.lr": ("learning_rate", None),
        "training.use_torch_compile": ("compile", None),
        "training.use_wandb": ("wandb_log", None),
        "monitoring.use_wandb": ("wandb_log", None),
        "monitoring.wandb_project": ("wandb_project", None),
        "monitoring.log_every_n_steps": ("log_interval", None),
        "monitoring.eval_every_n_steps": ("eval_interval", None),
        "wandb.project": ("wandb_project", None),
    }

    def model_args(self, vocab_size: int | None) -> dict[str, Any]:
        """Return the model's arguments as checkpoints keep them: nanoGPT's seven, others only when not default."""
        known = self.pick("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")
        return {**known, "vocab_size": vocab_size, **self.changed("attention_type", "position_encoding")}

    @model_validator(mode="after")
    def _fit_together(self) -> "Options":
        foreign = self.changed("attention_type", "position_encoding")
        if self.init_from not in ("scratch", "resume", "auto") and foreign:
            given = ", ".join(f"{name}={value}" for name, value in foreign.items())
            raise ValueError(f"init_from={self.init_from} brings causal attention and absolute positions: remove {given}")
        if self.init_from not in ("scratch", "auto"):
            return self  # the shape comes with the weights
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd} must be divisible by n_head={self.n_head}: change one of them")
        if self.position_encoding == "rotary" and self.n_embd // self.n_head % 2:
            raise ValueError(
                f"rotary positions need an even head size, got n_embd/n_head = {self.n_embd // self.n_head}: "
                "change n_embd or n_head, or set position_encoding=absolute"
            )
        return self


class SampleOptions(Schema):
    """What `sample.py` can be told."""

    opt = section("model")
    init_from: str = opt("resume", "resume (the checkpoint in out_dir), gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder with a Hugging Face GPT-2")
    out_dir: str = opt("out", "folder of the checkpoint")

    opt = section("text")
    start: str = opt("\n", "the prompt; FILE:path reads it from a file")
    num_samples: int = opt(10, "texts to write", ge=1)
    max_new_tokens: int = opt(500, "tokens to add to the prompt", ge=1)
    temperature: float = opt(0.8, "below 1 more predictable, above 1 more varied", gt=0)
    top_k: int | None = opt(200, "choose among the k likeliest tokens; None among all", ge=1)
    seed: int = opt(1337, "seed of the random draws", ge=0, le=2**62)

    opt = section("system")
    device: str = opt("cuda", "cuda, cuda:1, mps, cpu; plain cuda gives way to mps or cpu where there is none")
    dtype: Dtype = opt(best_dtype, "precision of matrix products; a CPU computes in float32")
    cpu_autocast: bool = opt(False, "let dtype=bfloat16 take effect on a CPU as well")
    compile: bool = opt(False, "compile the model with torch.compile")
    del opt
