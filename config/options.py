"""
Every option, declared once: name, type, default, meaning, bounds.

The names and defaults are nanoGPT's where it has the option. Sections are headings for the reader, for `--help SECTION`
and for YAML files; on the command line and in `.py` files every option goes by its flat name.
"""

import os
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from config.not_supported import DETAILS, NOT_SUPPORTED
from config.schema import Schema, section


def best_dtype() -> str:
    """Return nanoGPT's default precision: bfloat16 on a GPU that has it, else float16 (which a CPU ignores)."""
    import torch

    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float16"


Dtype = Literal["float32", "bfloat16", "float16"]
Stages = list[dict[str, Any]] | None
Tokens = list[int] | str


class Options(Schema):
    """What `train.py` can be told."""

    opt = section("run")
    out_dir: str = opt("out", "folder for checkpoints and logs")
    init_from: str = opt("scratch", "scratch, resume (from out_dir), auto (resume if there is something good to resume, else scratch), gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder with a Hugging Face GPT-2")
    resume_rng: Literal["exact", "reseed"] = opt("exact", "on resume: go on with the saved random state and batch, or reseed and evaluate again as nanoGPT does")
    eval_only: bool = opt(False, "stop after the first evaluation; no checkpoint and no metrics are written")
    training_type: Literal["language_model", "unmasking", "token_classification", "sequence_scoring"] = opt("language_model", "what the model learns: the next token; to fill masked positions; which tokens were replaced; how large a share of a text was machine-filled")
    model_mode: Literal["auto", "language_model", "token_classifier", "sequence_scorer"] = opt("auto", "the core line's word for the model's head; a token classifier or sequence scorer sets the training type, the others leave it")
    ckpt_filename: str | None = opt(None, "resume from this file in out_dir; None: from the newest good checkpoint")
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
    data_source: Literal["auto", "bins", "queue"] = opt("auto", "where batches come from: train.bin and val.bin, or the queue that prepare_streaming.py fills; auto: what is there")
    data_wait_sleep_seconds: float = opt(1.0, "queue: seconds between looks while it is empty", gt=0)
    data_wait_timeout_seconds: float | None = opt(None, "queue: seconds after which an empty queue is an error; None waits for ever", gt=0)
    use_paragraph_boundaries: bool = opt(False, "texts with gaps start where an empty line ends a paragraph")
    enable_line_aligned_sequences: bool = opt(False, "texts with gaps start at a line and hold whole lines only; the rest is padding")

    opt = section("model")
    n_layer: int = opt(12, "transformer blocks", ge=1)
    n_head: int = opt(12, "attention heads", ge=1)
    n_embd: int = opt(768, "width of the residual stream", ge=1)
    block_size: int = opt(1024, "tokens the model sees at once", ge=1)
    dropout: float = opt(0.0, "share of activations dropped while training", ge=0, lt=1)
    bias: bool = opt(False, "biases in the Linear and LayerNorm layers")
    attention_type: Literal["auto", "causal", "bidirectional"] = opt("auto", "which positions a token may attend to; auto: causal for language models, bidirectional for the other training types")
    position_encoding: Literal["absolute", "rotary"] = opt("absolute", "learned positions added, or queries and keys rotated")
    attention: Literal["sdpa", "manual", "flash"] = opt("sdpa", "implementation of attention; flash needs the flash-attn package and a GPU")

    opt = section("objective")
    loss_mean: Literal["tokens", "sequences"] = opt("tokens", "unmasking: mean over all masked positions, or over each sequence's own mean")
    num_token_classes: int = opt(2, "token_classification: classes of a token; the first two are untouched and replaced", ge=2)
    class_weights: Literal["balanced", "none"] = opt("balanced", "token_classification: weigh classes by the inverse of their share in the batch, or all alike")
    guaranteed_unmasked_max: float = opt(0.95, "token_classification: share of the tokens that stays at the beginning", ge=0, le=1)
    guaranteed_unmasked_min: float = opt(0.1, "token_classification: share of the tokens that stays after random_mask_warmup", ge=0, le=1)
    random_mask_warmup: int = opt(1000, "token_classification: iterations over which the replaced share grows", ge=0)
    p1_p2_ratio: float = opt(1.0, "token_classification: 1 replaces tokens independently; above 1 apart from each other, below 1 in clusters", gt=0)
    mask_token_id: int | None = opt(None, "id of the mask token; None: the first one beyond the text's", ge=0)
    cls_token_id: int | None = opt(None, "sequence_scoring: id of the token that the score is read from; None: the text's vocabulary size + 5", ge=0)
    unmasking_model_checkpoint: str = opt("", "sequence_scoring: checkpoint, or folder of one, of the unmasking model that fills the gaps")
    fill: Literal["argmax", "sample"] = opt("argmax", "sequence_scoring: gaps get the likeliest token, or one drawn from the likeliest fill_top_k")
    fill_temperature: float = opt(1.0, "sequence_scoring: below 1 likelier tokens, above 1 more varied ones", gt=0)
    fill_top_k: int | None = opt(50, "sequence_scoring: tokens to draw from; None from all", ge=1)
    score_transform: bool = opt(False, "sequence_scoring: the target is x^4 - 2x^3 + 2x of the masked share x instead of x itself")

    opt = section("stages")
    unmasking_stages: Stages = opt([], "how training texts are masked, one dict a stage: {'type': 'sticky', 'target_masked_ratio', 'p1_probability', 'p2_probability'}, {'type': 'random', 'max_masked_ratio'}, {'type': 'span', 'spans_count'}, {'type': 'line', 'min_ratio', 'max_ratio'}, each with 'val_loss_stale_count'; none: mask_probability")
    validation_stages: Stages = opt([], "how the validation texts are masked; none: as the training texts, all stages alike")
    use_all_stages_for_training: bool | None = opt(None, "use all stages from the beginning; else one after the other, as the validation loss stops improving")
    composition_config: str | None = opt(None, "file in data/char_diffusion/config/ whose stages the config file has taken over")
    mask_probability: float = opt(0.15, "where there are no stages: share of the positions to mask", gt=0, le=1)

    opt = section("modifiers")
    loss_modifiers_enabled: bool = opt(False, "let the modifiers below that have an _enabled of their own take part")
    target_smoothing_enabled: bool = opt(False, "smooth the targets: some of the probability goes to wrong tokens")
    target_smoothing_factor: float = opt(0.1, "probability that goes to wrong tokens", ge=0, lt=1)
    target_smoothing_special_tokens: Tokens = opt([], "targets that are not smoothed: a list, or ids in a text with commas")
    target_smoothing_exclude_padding: bool = opt(True, "leave padding out of the loss")
    target_smoothing_padding_token: int = opt(-100, "target of padding")
    entropy_modifier_enabled: bool = opt(False, "weigh sequences by the inverse entropy of the wrong answers")
    entropy_modifier_weight: float = opt(1.0, "factor on all weights", ge=0)
    entropy_modifier_threshold: float = opt(0.0, "least entropy that counts, of 1", ge=0, le=1)
    entropy_modifier_eps: float = opt(1e-8, "keeps divisions finite", gt=0)
    entropy_modifier_verbose: bool = opt(False, "accepted, without effect")
    mask_ratio_weight_enabled: bool = opt(False, "weigh sequences by a power of the inverse of their masked share")
    mask_ratio_weight_power: float = opt(0.5, "the power", ge=0)
    mask_ratio_weight_min: float = opt(0.1, "least weight", ge=0)
    mask_ratio_weight_max: float = opt(10.0, "largest weight", gt=0)
    mask_ratio_weight_eps: float = opt(1e-8, "keeps divisions finite", gt=0)
    judge_weight_modifier_enabled: bool = opt(False, "weigh sequences by what a frozen scorer says of the model's answers")
    judge_weight_checkpoint: str = opt("", "checkpoint, or folder of one, of that scorer")
    judge_weight_exponent: float = opt(1.0, "power of the weight, reached at judge_max_iter", ge=0)
    judge_start_iter: int = opt(0, "iteration at which the power begins to grow from 0", ge=0)
    judge_max_iter: int = opt(0, "iteration at which it is reached", ge=0)
    judge_weight_min_factor: float = opt(0.1, "least weight", ge=0)
    judge_weight_max_factor: float = opt(10.0, "largest weight", gt=0)
    judge_weight_eps: float = opt(1e-6, "keeps divisions finite", gt=0)
    sequence_variance_enabled: bool = opt(False, "sequence_scoring: raise the loss where scores vary less than targets")
    sequence_variance_scale: float = opt(2.0, "largest factor", ge=1)
    sequence_variance_alpha: float = opt(1.5, "how fast it grows", ge=0)
    sequence_variance_eps: float = opt(1e-8, "keeps divisions finite", gt=0)
    sequence_correlation_enabled: bool = opt(False, "sequence_scoring: raise the loss where scores do not go along with targets")
    sequence_correlation_alpha: float = opt(4.0, "factor at a correlation of -1; its root at 0", ge=1)
    sequence_correlation_eps: float = opt(1e-8, "keeps divisions finite", gt=0)
    seq_scorer_log_abs_rel_err: bool = opt(True, "sequence_scoring: report the mean relative error as well")
    sequence_metrics_ema_alpha: float = opt(0.1, "weight of the newest value in its running mean", gt=0, le=1)
    sequence_metrics_eps: float = opt(1e-6, "keeps divisions finite", gt=0)
    z_loss_weight: float = opt(0.0, "weight of the squared logarithm of the softmax's denominator; 0: none", ge=0)
    weight_loss_by_mask_ratio: bool = opt(False, "weigh sequences by the root of the inverse of their masked share, without limits")
    uncertainty_factor: float = opt(0.0, "probability that goes to wrong tokens, but none to special ones; 0: none", ge=0, lt=1)
    enable_entropy_penalty: bool = opt(False, "raise the loss of sequences whose wrong answers are concentrated on few tokens")
    max_entropy_penalty: float = opt(0.5, "the penalty at max_iters", ge=0)
    entropy_penalty_start_iter: int = opt(6000, "iteration at which it begins to grow from 0", ge=0)
    enable_judge_model: bool = opt(False, "weigh sequences by what a frozen scorer says of the gaps as the model fills them, relative to the batch")
    judge_model_checkpoint: str = opt("", "checkpoint, or folder of one, of that scorer")

    opt = section("transfer")
    init_from_checkpoint: str | None = opt(None, "checkpoint, or folder of one, whose transformer a new model starts from; its head starts afresh")
    freeze_transformer: bool | None = opt(False, "train the head alone; None: of a sequence scorer that is unfrozen later")
    trainable: str = opt("", "parameters of the transformer that are trained, as patterns with commas: 'h.[8-9].*,ln_f.*'; the rest is frozen; empty: all of them")
    unfreeze_at_iteration: int | None = opt(None, "iteration from which the whole transformer is trained", ge=0)
    unfreeze_lr_multiplier: float = opt(0.1, "factor on the learning rate from then on", gt=0)

    opt = section("training")
    batch_size: int = opt(12, "sequences per micro-batch and process", ge=1)
    gradient_accumulation_steps: int = opt(40, "micro-batches per update, over all processes together", ge=1)
    max_iters: int | float = opt(600_000, "last iteration; nanoGPT counts from 0, so one update more is made", ge=0)
    grad_clip: float = opt(1.0, "largest gradient norm; 0 disables clipping", ge=0, allow_inf_nan=True)

    opt = section("stability")
    on_instability: Literal["recover", "stop", "skip", "warn"] = opt("recover", "what to do when a loss, gradient or weight is not finite, or spikes: go back to the last healthy checkpoint and leave that batch out; stop; leave that update out; or only say so and train on")
    check_every_step: bool = opt(False, "check logits and parameters for non-finite values after each update; waits for the device")
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
    lr_schedule: Literal["cosine", "linear", "constant", "inverse_sqrt", "wsd", "warmup_only", "adaptive", "transfer"] = opt("cosine", "shape after the warm-up; linear and cosine end at min_lr, wsd (warm-up, stable, decay) decays over its last wsd_decay_iters only, warmup_only holds and then fades towards min_lr, adaptive falls when the validation loss stops improving, transfer has a rate for the head of its own until unfreeze_at_iteration")
    wsd_decay_iters: int = opt(0, "wsd: iterations of the decay that ends at lr_decay_iters; 0: a tenth of lr_decay_iters", ge=0)
    head_lr_multiplier: float = opt(10.0, "transfer: the head's learning rate while the transformer is frozen, in learning rates", gt=0)
    lr_patience: int = opt(3, "adaptive: evaluations in a row without a lower validation loss", ge=1)
    lr_factor: float = opt(0.5, "adaptive: what the learning rate is then multiplied by", gt=0, lt=1)
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

    NOT_SUPPORTED: ClassVar[Any] = NOT_SUPPORTED
    WITHOUT_EFFECT: ClassVar[Any] = {
        **{name: f"it says more about {switch}, which is not supported" for name, switch in DETAILS.items()},
        **dict.fromkeys(("data_prefer_queue", "data_cache_files"), "see data_source"),
        **dict.fromkeys(
            ("batches_per_file", "max_backlog_files", "sleep_seconds", "data_stream_verbose", "ignore_index", "target_size",
             "mask_probability_range", "max_rounds", "mode_distribution", "alternation_frequency", "source_data_dir",
             "sticky_p1_probability", "sticky_p2_probability"),
            "it is for prepare_streaming.py",
        ),
        **dict.fromkeys(
            ("eval_zero_stats_min_zeros", "eval_zero_stats_max_extra_batches", "eval_reset_val_stream"),
            "every evaluation sees the same texts, untouched ones among them",
        ),
        "start_iter_num": "a resume knows its iteration",
        "vocab_size": "meta.pkl says it",
    }  # fmt: skip

    SPELLINGS: ClassVar[Any] = {
        "training_type": {
            "LM": "language_model", "MLM": "unmasking", "SEQUENCE_SCORING": "sequence_scoring",
            "token_classifier": "token_classification", "remasking_binary": "token_classification",
            "sequence_scorer": "sequence_scoring",
        },
        "model_mode": {"token_classification": "token_classifier", "sequence_scoring": "sequence_scorer"},
    }  # fmt: skip

    ALIASES: ClassVar[Any] = {
        # nanoGPT forks
        "mask_ratio_weight_min_weight": ("mask_ratio_weight_min", None),
        "mask_ratio_weight_max_weight": ("mask_ratio_weight_max", None),
        "mlm_checkpoint_path": ("unmasking_model_checkpoint", None),
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
        args = {**known, "vocab_size": vocab_size, **self.changed("position_encoding")}
        if self.is_bidirectional:
            args["attention_type"] = "bidirectional"
        if self.training_type == "token_classification":
            args |= {"mode": "token_classifier", "num_token_classes": self.num_token_classes}
        if self.training_type == "sequence_scoring":
            args["mode"] = "sequence_scorer"
        return args

    @property
    def freezes(self) -> bool:
        """Whether the transformer is frozen at the beginning."""
        by_default = self.training_type == "sequence_scoring" and self.unfreeze_at_iteration is not None
        return by_default if self.freeze_transformer is None else self.freeze_transformer

    @property
    def is_bidirectional(self) -> bool:
        """Whether a token may attend to those after it."""
        by_default = self.training_type != "language_model"
        return by_default if self.attention_type == "auto" else self.attention_type == "bidirectional"

    @model_validator(mode="before")
    @classmethod
    def _follow_the_head(cls, values: dict[str, Any]) -> dict[str, Any]:
        heads = {"token_classifier": "token_classification", "sequence_scorer": "sequence_scoring"}
        head, given = values.get("model_mode", "auto"), values.get("training_type", "language_model")
        # the core line's training types are those of a language model's head; its files name another head alone
        if head in heads and given not in ("language_model", "unmasking", heads[head]):
            raise ValueError(f"model_mode={head} and training_type={given} contradict each other: remove one of them")
        return {**values, "training_type": heads[head]} if head in heads else values

    @model_validator(mode="after")
    def _fit_together(self) -> "Options":
        if wrong := list(self._mistakes()):
            raise ValueError("\n".join(wrong))
        foreign = self.changed("position_encoding")
        if self.is_bidirectional:
            foreign["attention_type"] = "bidirectional"
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

    def _mistakes(self) -> Iterator[str]:
        """Yield what does not go together in what the run learns."""
        if self.training_type in ("token_classification", "sequence_scoring") and self.attention_type == "causal":
            yield (
                f"training_type={self.training_type} has to see what comes after a token: remove attention_type=causal"
            )
        stages = next((name for name in ("unmasking_stages", "validation_stages") if getattr(self, name)), None)
        if stages and self.training_type == "language_model":
            yield (
                f"{stages} are for texts with gaps, but training_type=language_model: set training_type=unmasking; "
                "a file of the train_run line wants config/base_train_run.py before it, one of the core line "
                "config/base_core_line.py, or config/base_core_line_newest.py"
            )
        if self.composition_config and not os.path.exists(f"data/char_diffusion/config/{self.composition_config}.py"):
            yield (
                f"composition_config={self.composition_config!r}: there is no data/char_diffusion/config/"
                f"{self.composition_config}.py; wanted the name of a file there, or None"
            )
        if self.init_from_checkpoint and self.init_from not in ("scratch", "resume", "auto"):
            yield f"init_from={self.init_from} and init_from_checkpoint={self.init_from_checkpoint}: remove one of them"
        if self.training_type == "sequence_scoring" and self.block_size < 2:
            yield "block_size=1 has no room for a text beside the CLS token: a scorer wants 2 or more"
        for low, high in (
            ("guaranteed_unmasked_min", "guaranteed_unmasked_max"), ("mask_ratio_weight_min", "mask_ratio_weight_max"),
            ("judge_weight_min_factor", "judge_weight_max_factor"),
        ):  # fmt: skip
            if getattr(self, low) > getattr(self, high):
                yield f"{low}={getattr(self, low)} is more than {high}={getattr(self, high)}: exchange them"
        late = self.unfreeze_at_iteration is not None and self.unfreeze_at_iteration > self.max_iters
        if late and (self.freezes or self.trainable):
            yield (
                f"unfreeze_at_iteration={self.unfreeze_at_iteration} is beyond max_iters={self.max_iters}: lower it, or "
                "set it to None to keep the transformer frozen"
            )
        if self.lr_schedule == "transfer" and (self.unfreeze_at_iteration is None or not (self.freezes or self.trainable)):
            yield (
                "lr_schedule=transfer is for a frozen transformer that is unfrozen later: set freeze_transformer=True and "
                "unfreeze_at_iteration"
            )
        if not self.decay_lr and self.lr_schedule not in ("cosine", "transfer", "constant"):
            yield f"decay_lr=False has no meaning for lr_schedule={self.lr_schedule}: set lr_schedule=constant"
        if self.judge_weight_modifier_enabled and self.judge_max_iter < self.judge_start_iter:
            yield (
                f"judge_max_iter={self.judge_max_iter} comes before judge_start_iter={self.judge_start_iter}: raise it"
            )


class SampleOptions(Schema):
    """What `sample.py` can be told."""

    opt = section("model")
    init_from: str = opt("resume", "resume (the checkpoint in out_dir), gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder with a Hugging Face GPT-2")
    out_dir: str = opt("out", "folder of the checkpoint")

    opt = section("text")
    start: str = opt("\n", "the prompt; FILE:path reads it from a file")
    num_samples: int = opt(10, "texts to write", ge=1)
    max_new_tokens: int = opt(500, "tokens to add to the prompt; an unmasking model adds as many of them as its block_size has room for", ge=1)
    temperature: float = opt(0.8, "below 1 more predictable, above 1 more varied", gt=0)
    top_k: int | None = opt(200, "choose among the k likeliest tokens; None among all", ge=1)
    seed: int = opt(1337, "seed of the random draws", ge=0, le=2**62)

    opt = section("unmasking")
    steps: int = opt(50, "steps in which the masks are filled", ge=1)
    schedule: Literal["linear", "cosine"] = opt("linear", "how many masks a step fills: linear: as many in every step; cosine: few at first, while little is known, and more later")
    masking_ratios: list[float] | None = opt(None, "share of the masks that is left after each step, in place of steps and schedule; the last step leaves none")
    order: Literal["confidence", "random"] = opt("random", "which of the tokens drawn in a step are kept: any, or those the model finds likeliest, which small models fill with spaces")
    remask: bool = opt(False, "let tokens of earlier steps be masked and drawn again, where the model has come to doubt them")
    top_p: float = opt(1.0, "choose among the fewest tokens that together have this probability; 1 among all", gt=0, le=1)
    mask_char: str | None = opt(None, "character that stands for a mask in the prompt, such as _: then those are filled, and nothing is added to it", min_length=1, max_length=1)
    judge: str | None = opt(None, "folder or checkpoint of a sequence scorer: of several candidates the one it finds least machine-made is written")
    judge_candidates: int = opt(8, "candidates that the judge chooses from", ge=1)
    show_steps: bool = opt(False, "write the text after every step; a terminal shows the steps in place without it")

    opt = section("labels")
    show_probabilities: bool = opt(False, "list the probability of every class for each token, from a token classifier")
    original: str | None = opt(None, "text that the prompt was made from by replacing tokens, to count how many of those a token classifier finds; FILE:path reads it from a file")

    opt = section("system")
    device: str = opt("cuda", "cuda, cuda:1, mps, cpu; plain cuda gives way to mps or cpu where there is none")
    dtype: Dtype = opt(best_dtype, "precision of matrix products; a CPU computes in float32")
    cpu_autocast: bool = opt(False, "let dtype=bfloat16 take effect on a CPU as well")
    compile: bool = opt(False, "compile the model with torch.compile")
    del opt

    ALIASES: ClassVar[Any] = {  # nanoGPT forks
        "sequence_length": ("max_new_tokens", None),
        "start_text": ("start", None),
        "diffusion_iterations": ("steps", None),
        "schedule_type": ("schedule", {"linear": "linear", "custom": "linear"}),  # custom: masking_ratios, which rules
        "intelligent_remasking": ("remask", None),
        "use_verbose_logging": ("show_steps", None),
    }

    @model_validator(mode="after")
    def _fit_together(self) -> "SampleOptions":
        wrong = [ratio for ratio in self.masking_ratios or () if not 0 <= ratio <= 1]
        if self.masking_ratios == [] or wrong:
            raise ValueError(f"masking_ratios={self.masking_ratios}: wanted at least one number, each between 0 and 1")
        if self.judge is None and self.changed("judge_candidates"):
            raise ValueError(f"judge_candidates={self.judge_candidates} has no judge to choose: set judge, or remove it")
        return self
