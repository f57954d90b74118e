"""
Every option, declared once: name, type, default, meaning, bounds.

Options that nanoGPT has keep its names and defaults. Sections group options in `--help SECTION` and in YAML files; on
the command line and in `.py` files an option has its flat name.
"""

import os
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from config.not_supported import DETAILS, NOT_SUPPORTED
from config.schema import Base, Schema, section


def best_dtype() -> str:
    """Return nanoGPT's default dtype: bfloat16 if the GPU supports it, else float16 (which a CPU ignores)."""
    import torch

    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float16"


Dtype = Literal["float32", "bfloat16", "float16"]
Stages = list[dict[str, Any]] | None
Tokens = list[int] | str


class Options(Schema):
    """The options of `train.py`."""

    USAGE: ClassVar[str] = """\
usage: python train.py [CONFIG.py | OPTIONS.yaml | --option=value] ...
       applied from left to right

  python train.py config/quickstart.py
  python train.py config/quickstart.py --n_layer=6 --out_dir=out-deeper
  python train.py --init_from=resume --out_dir=out-quickstart   goes on with that run"""

    opt = section("run")
    out_dir: str = opt("out", "folder for checkpoints and logs", text="path", min_length=1)
    init_from: str = opt("scratch", "scratch; resume (from out_dir); auto (resume if out_dir has a good checkpoint, else scratch); gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder with a Hugging Face GPT-2, in our own model; hf:NAME or hf:FOLDER: any causal language model or image-text model of Hugging Face, in transformers", text="path", min_length=1)
    resume_rng: Literal["exact", "reseed"] = opt("exact", "on resume: exact restores the saved RNG state and batch; reseed seeds again and repeats the evaluation, as nanoGPT does")
    eval_only: bool = opt(False, "stop after the first evaluation; write no checkpoint and no metrics")
    training_type: Literal["language_model", "unmasking", "token_classification", "sequence_scoring"] = opt("language_model", "what the model learns: language_model predicts the next token, unmasking fills masked positions, token_classification finds replaced tokens, sequence_scoring estimates the ratio of machine-filled tokens in a text")
    model_mode: Literal["auto", "language_model", "token_classifier", "sequence_scorer"] = opt("auto", "the core line's name for the model's head; token_classifier and sequence_scorer set training_type, the other values do not")
    ckpt_filename: str | None = opt(None, "resume from this file in out_dir; None: from the newest good checkpoint", text="path", min_length=1)
    callbacks_file: str | None = opt(None, "Python file whose callbacks watch the run: its classes with event methods, or its list `callbacks`; see docs/callbacks.md; None: no file", text="path")
    seed: int = opt(1337, "seed of all random draws; each process adds its rank", ge=0, le=2**62)

    opt = section("evaluation")
    eval_interval: int = opt(2000, "iterations between evaluations", ge=1)
    eval_iters: int = opt(200, "batches per split in one evaluation", ge=1, le=10**8)
    eval_rng: Literal["shared", "isolated"] = opt("shared", "shared: evaluations draw from the RNG of training, as in nanoGPT; isolated: evaluations have their own RNG, use the same batches each time and do not change training")

    opt = section("checkpoints")
    always_save_checkpoint: bool = opt(True, "save after every evaluation, not only when the validation loss improves")
    save_interval: int = opt(0, "also save every n iterations; 0: only after evaluations and at the end", ge=0)
    save_minutes: float = opt(0.0, "also save when this many minutes have passed since the last save; 0 disables it", ge=0)
    keep_last: int = opt(2, "number of newest checkpoints to keep", ge=1)
    keep_best: int = opt(1, "number of checkpoints with the lowest validation loss to keep in addition", ge=0)
    best_metric: str = opt("val_loss", "what decides which checkpoint is best: val_loss, train_loss, or a metric that evaluations measure, by the name it is logged under", min_length=1)
    best_mode: Literal["min", "max"] = opt("min", "min: the best checkpoint has the lowest best_metric, max: the highest")
    early_stopping_patience: int = opt(0, "stop after so many consecutive evaluations without a better best_metric; 0: do not", ge=0)
    early_stopping_threshold: float = opt(0.0, "how much better best_metric must be to count for that", ge=0)
    final_model: Literal["last", "best", "none"] = opt("last", "models of Hugging Face and LoRA: which checkpoint becomes the folder final_model when the run ends")
    async_save: bool = opt(False, "write checkpoints in a background thread, from a copy in memory, while training continues")
    time_limit: float | None = opt(None, "hours after which the run saves and stops with exit status 75, so that a scheduler can restart it", gt=0)

    opt = section("logging")
    log_interval: int = opt(1, "iterations between log lines", ge=1)
    wandb_log: bool = opt(False, "also log to Weights & Biases")
    wandb_project: str | None = opt("owt", "Weights & Biases project name")
    wandb_run_name: str | None = opt("gpt2", "Weights & Biases run name; None: Weights & Biases chooses one")
    wandb_log_interval: int = opt(0, "also send the step metrics every n iterations, if that iteration is logged; 0: send evaluations only, as nanoGPT does", ge=0)
    wandb_entity: str | None = opt(None, "Weights & Biases user or team; None: the default of the account")
    wandb_group: str | None = opt(None, "Weights & Biases group of runs")
    wandb_tags: list[str] = opt([], "Weights & Biases tags of the run")
    sample_interval: int = opt(0, "iterations between samples of what the model writes; 0: none", ge=0)
    webhook: str | None = opt(None, "address that gets a message when a run begins, ends or fails", text="prose")

    opt = section("data")
    dataset: str = opt("openwebtext", "folder under data/, or path of a folder, with train.bin, val.bin and optionally meta.pkl; or a text file, prepared by character; or rows of text for a model of Hugging Face: FILE.jsonl, FILE.parquet, hf:FILE, or hf:NAME of the hub", text="path", min_length=1)
    data_source: Literal["auto", "bins", "queue"] = opt("auto", "where batches come from: bins (train.bin and val.bin) or queue (filled by prepare_streaming.py); auto: whichever of the two exists, and an error if both do")
    data_wait_sleep_seconds: float = opt(1.0, "queue: seconds between checks of an empty queue", gt=0)
    data_wait_timeout_seconds: float | None = opt(None, "queue: seconds after which an empty queue is an error; None: wait forever", gt=0)
    use_paragraph_boundaries: bool = opt(False, "masked texts start at a paragraph, after an empty line")
    enable_line_aligned_sequences: bool = opt(False, "masked texts start at a line and hold complete lines only; padding fills the rest")

    opt = section("rows")
    dataset_file: str | None = opt(None, "Python file with get_custom_dataset(dataset_config, processor, split, split_ratio=0.8), and optionally get_data_collator(processor), in place of dataset; its rows may hold images; looked for next to the config file, in datasets/ and in the current folder", text="path")
    tokenizer: str | None = opt(None, "rows: name or folder of a Hugging Face tokenizer; None: that of the model", text="path")
    dataset_config: str | None = opt(None, "rows: name of one of the data set's configurations on the hub")
    train_split: str = opt("train", "rows: split of the data set that trains")
    val_split: str | None = opt(None, "rows: split that validates; None: validation, val, test or the like, and if there is none a share of the rows that train")
    split_ratio: float = opt(0.9, "rows: without a split for validation, share of the rows that train; the others validate", gt=0, lt=1)
    split_seed: int = opt(42, "rows: seed of that choice", ge=0, le=2**62)
    text_column: str | None = opt(None, "rows: column of texts, of which every token is learnt; None: a column with a usual name, such as text")
    prompt_column: str | None = opt(None, "rows: column of prompts, which are given and not learnt; None: a usual name, such as prompt or input")
    response_column: str | None = opt(None, "rows: column of responses, which are learnt with an end token; None: a usual name, such as response or output")
    messages_column: str | None = opt(None, "rows: column of chats, lists of messages with role and content, of which the assistant's are learnt; None: a usual name, such as messages")
    chat_template: str | None = opt(None, "rows: file with the chat template, in Jinja; None: that of the tokenizer", text="path")
    min_quality_score: float | None = opt(None, "rows: drop rows whose quality_column is below this; None: keep all")
    quality_column: str = opt("quality_score", "rows: column of the quality")
    max_input_length: int | None = opt(None, "rows: most tokens of a prompt, whose first ones are kept; None: block_size", ge=1)
    max_target_length: int | None = opt(None, "rows: most tokens of a response to a model with an encoder; None: block_size", ge=1)
    packing: bool = opt(False, "rows: put several rows into one sequence of block_size tokens, where they do not see each other; no padding is computed")
    streaming: bool = opt(False, "rows: read the rows while training, and do not look through them first")
    shuffle_buffer: int = opt(10_000, "rows: streaming shuffles so many rows at a time", ge=1)
    drop_duplicates: bool = opt(False, "rows: drop rows that are the same as an earlier one")
    use_subset: bool = opt(False, "rows: use the first subset_size rows alone, for a trial")
    subset_size: int = opt(100, "rows: size of that subset", ge=2)
    pad_to_multiple_of: int | None = opt(None, "rows: pad sequences to a multiple of this length, such as 8; None: to the longest of the batch", ge=1)

    opt = section("model")
    n_layer: int = opt(12, "number of transformer blocks", ge=1)
    n_head: int = opt(12, "number of attention heads", ge=1)
    n_embd: int = opt(768, "width of the residual stream", ge=1)
    block_size: int = opt(1024, "maximum context length in tokens", ge=1)
    dropout: float = opt(0.0, "dropout probability during training", ge=0, lt=1)
    bias: bool = opt(False, "use biases in the Linear and LayerNorm layers")
    attention_type: Literal["auto", "causal", "bidirectional"] = opt("auto", "which positions a token attends to; auto: causal for language models, bidirectional for the other training types")
    position_encoding: Literal["absolute", "rotary"] = opt("absolute", "absolute: learned position embeddings; rotary: rotary position embeddings (RoPE)")
    activation: Literal["gelu", "gelu_tanh"] = opt("gelu", "activation of the MLPs; gelu_tanh is the approximation that OpenAI's GPT-2 was trained with, and nanoGPT uses gelu for it")
    attention: Literal["sdpa", "manual", "flash"] = opt("sdpa", "implementation of attention; flash needs a CUDA GPU and the flash-attn package")
    activation_checkpointing: Literal["none", "full"] = opt("none", "full: compute activations again in the backward pass, for less memory and more time; for models of Hugging Face (init_from=hf:...)")
    quantization: Literal["none", "8bit", "4bit"] = opt("none", "load the frozen weights of a model of Hugging Face in 8 or 4 bits, for use_lora=True; needs the bitsandbytes package")
    device_map: str | None = opt(None, "for configs of other trainers: a model that trains is on the device of its process, which auto means, too", min_length=1)

    opt = section("lora")
    use_lora: bool = opt(False, "freeze the model and train low-rank matrices next to some of its layers (LoRA), by the peft package")
    lora_r: int = opt(16, "rank of these matrices", ge=1)
    lora_alpha: int = opt(32, "their output is multiplied by lora_alpha / lora_r", ge=1)
    lora_dropout: float = opt(0.05, "dropout probability of their input during training", ge=0, lt=1)
    lora_target_modules: list[str] | str | None = opt(None, "layers that get them: the ends of their names, such as ['q_proj', 'v_proj'], or all-linear; None: the usual ones of the architecture")
    lora_modules_to_save: list[str] = opt([], "modules that train in full next to them, and are saved with them, such as ['lm_head']")

    opt = section("objective")
    loss_mean: Literal["tokens", "sequences"] = opt("tokens", "unmasking: tokens takes the mean over all masked positions, sequences first takes the mean of each sequence")
    num_token_classes: int = opt(2, "token_classification: number of token classes; class 0 is an original token, class 1 a replaced one", ge=2)
    class_weights: Literal["balanced", "none"] = opt("balanced", "token_classification: balanced weights each class by its inverse frequency in the batch, none weights all classes equally")
    guaranteed_unmasked_max: float = opt(0.95, "token_classification: ratio of original tokens at iteration 0", ge=0, le=1)
    guaranteed_unmasked_min: float = opt(0.1, "token_classification: ratio of original tokens from iteration random_mask_warmup on", ge=0, le=1)
    random_mask_warmup: int = opt(1000, "token_classification: iterations over which the ratio of replaced tokens grows", ge=0)
    p1_p2_ratio: float = opt(1.0, "token_classification: 1 replaces tokens independently, above 1 keeps replaced tokens apart, below 1 clusters them", gt=0)
    mask_token_id: int | None = opt(None, "id of the mask token; None: the first id after the text's vocabulary", ge=0)
    cls_token_id: int | None = opt(None, "sequence_scoring: id of the CLS token, where the score is read; None: vocabulary size of the text + 5", ge=0)
    unmasking_model_checkpoint: str = opt("", "sequence_scoring: checkpoint file or run folder of the unmasking model that fills masked positions", text="path")
    fill: Literal["argmax", "sample"] = opt("argmax", "sequence_scoring: fill masked positions with the most likely token (argmax), or sample from the fill_top_k most likely ones (sample)")
    fill_temperature: float = opt(1.0, "sequence_scoring: sampling temperature of the fill; below 1 more predictable, above 1 more varied; 0: the most likely token", ge=0)
    fill_top_k: int | None = opt(50, "sequence_scoring: sample from the k most likely tokens; None or 0: from all tokens", ge=0)
    score_transform: bool = opt(False, "sequence_scoring: the target is x^4 - 2x^3 + 2x instead of the masked ratio x")

    opt = section("stages")
    unmasking_stages: Stages = opt([], "how training texts are masked, one dict per stage: {'type': 'sticky', 'target_masked_ratio', 'p1_probability', 'p2_probability'}, {'type': 'random', 'max_masked_ratio'}, {'type': 'span', 'spans_count'}, {'type': 'line', 'min_ratio', 'max_ratio'}, each with 'val_loss_stale_count'; empty: use mask_probability")
    validation_stages: Stages = opt([], "how validation texts are masked, divided evenly among the stages; empty: like the training texts")
    use_all_stages_for_training: bool | None = opt(None, "train on all stages from the start; otherwise add the next stage when the validation loss stops improving")
    composition_config: str | None = opt(None, "name of the file in data/char_diffusion/config/ that the config file imports its stages from")
    mask_probability: float = opt(0.15, "without stages: probability that a position is masked", gt=0, le=1)

    opt = section("modifiers")
    loss_modifiers_enabled: bool = opt(False, "enable the modifiers below whose own _enabled option is True")
    target_smoothing_enabled: bool = opt(False, "label smoothing: move some probability from the target to the other tokens")
    target_smoothing_factor: float = opt(0.1, "probability moved to the other tokens", ge=0, lt=1)
    target_smoothing_special_tokens: Tokens = opt([], "target ids that are not smoothed: a list, or a string with commas")
    target_smoothing_exclude_padding: bool = opt(True, "exclude padding from the loss")
    target_smoothing_padding_token: int = opt(-100, "target id of padding")
    entropy_modifier_enabled: bool = opt(False, "weight sequences by the inverse entropy of the predicted wrong tokens")
    entropy_modifier_weight: float = opt(1.0, "factor on all weights", ge=0)
    entropy_modifier_threshold: float = opt(0.0, "minimum entropy, as a ratio of the maximum; lower entropies count as this one", ge=0, le=1)
    entropy_modifier_eps: float = opt(1e-8, "constant that keeps divisions finite", gt=0)
    mask_ratio_weight_enabled: bool = opt(False, "weight sequences by a power of their inverse masked ratio")
    mask_ratio_weight_power: float = opt(0.5, "exponent", ge=0)
    mask_ratio_weight_min: float = opt(0.1, "minimum weight", ge=0)
    mask_ratio_weight_max: float = opt(10.0, "maximum weight", gt=0)
    mask_ratio_weight_eps: float = opt(1e-8, "constant that keeps divisions finite", gt=0)
    judge_weight_modifier_enabled: bool = opt(False, "weight sequences by the score that a frozen sequence scorer gives the model's predictions")
    judge_weight_checkpoint: str = opt("", "checkpoint file or run folder of the scorer", text="path")
    judge_weight_exponent: float = opt(1.0, "exponent of the weight, reached at judge_max_iter", ge=0)
    judge_start_iter: int = opt(0, "iteration at which the exponent starts to grow from 0", ge=0)
    judge_max_iter: int = opt(0, "iteration at which the exponent reaches judge_weight_exponent", ge=0)
    judge_weight_min_factor: float = opt(0.1, "minimum weight", ge=0)
    judge_weight_max_factor: float = opt(10.0, "maximum weight", gt=0)
    judge_weight_eps: float = opt(1e-6, "constant that keeps divisions finite", gt=0)
    sequence_variance_enabled: bool = opt(False, "sequence_scoring: increase the loss when the scores vary less than the targets")
    sequence_variance_scale: float = opt(2.0, "maximum factor on the loss", ge=1)
    sequence_variance_alpha: float = opt(1.5, "how fast the factor grows with the ratio of the variances", ge=0)
    sequence_variance_eps: float = opt(1e-8, "constant that keeps divisions finite", gt=0)
    sequence_correlation_enabled: bool = opt(False, "sequence_scoring: increase the loss when scores and targets correlate weakly")
    sequence_correlation_alpha: float = opt(4.0, "factor on the loss at correlation -1; at correlation 0 it is the square root", ge=1)
    sequence_correlation_eps: float = opt(1e-8, "constant that keeps divisions finite", gt=0)
    seq_scorer_log_abs_rel_err: bool = opt(True, "sequence_scoring: also report the mean relative error")
    sequence_metrics_ema_alpha: float = opt(0.1, "weight of the newest value in the exponential moving average", gt=0, le=1)
    sequence_metrics_eps: float = opt(1e-6, "constant that keeps divisions finite", gt=0)
    z_loss_weight: float = opt(0.0, "weight of the z-loss, the squared logarithm of the softmax denominator; 0 disables it", ge=0)
    weight_loss_by_mask_ratio: bool = opt(False, "weight sequences by the square root of their inverse masked ratio, without minimum and maximum")
    uncertainty_factor: float = opt(0.0, "label smoothing that gives special tokens no probability: probability moved to the other tokens; 0 disables it", ge=0, lt=1)
    enable_entropy_penalty: bool = opt(False, "increase the loss of sequences whose predicted wrong tokens are concentrated on few ids")
    max_entropy_penalty: float = opt(0.5, "penalty at max_iters", ge=0)
    entropy_penalty_start_iter: int = opt(6000, "iteration at which the penalty starts to grow from 0", ge=0)
    enable_judge_model: bool = opt(False, "weight sequences, relative to the batch, by the score that a frozen sequence scorer gives the text with masked positions filled by the model")
    judge_model_checkpoint: str = opt("", "checkpoint file or run folder of the scorer", text="path")

    opt = section("transfer")
    init_from_checkpoint: str | None = opt(None, "checkpoint file or run folder whose transformer weights a new model starts with; its head is initialized randomly", text="path")
    freeze_transformer: bool | None = opt(False, "train only the head; None: True for sequence_scoring with unfreeze_at_iteration, else False")
    trainable: str = opt("", "parameters of the transformer to train, as patterns with commas: 'h.[8-9].*,ln_f.*'; the others are frozen; empty: train all")
    unfreeze_at_iteration: int | None = opt(None, "iteration from which all parameters of the transformer are trained", ge=0)
    unfreeze_lr_multiplier: float = opt(0.1, "factor on the learning rate from that iteration on", gt=0)

    opt = section("training")
    batch_size: int = opt(12, "sequences per micro-batch and process", ge=1)
    gradient_accumulation_steps: int = opt(40, "micro-batches per update, summed over all processes", ge=1, le=10**9)
    auto_batch_size: bool = opt(False, "before training, find the largest batch_size up to the given one that fits the memory, and raise gradient_accumulation_steps for the same number of sequences per update")
    num_epochs: int | float | None = opt(None, "train for exactly so many passes over the training rows or tokens, in place of max_iters; None: max_iters decides", gt=0)
    epochs_per_job: int | None = opt(None, "end this process after so many passes; a resume trains the next ones; None: no limit", ge=1)
    max_iters: int | float = opt(600_000, "last iteration; iterations start at 0, so a run makes max_iters + 1 updates, as in nanoGPT", ge=0)
    grad_clip: float = opt(1.0, "maximum gradient norm; 0 disables clipping", ge=0, allow_inf_nan=True)

    opt = section("stability")
    on_instability: Literal["recover", "stop", "skip", "warn"] = opt("recover", "what to do when a loss, gradient or weight is non-finite or spikes: recover rolls back to the last healthy checkpoint and skips the batches of that update, stop ends the run, skip skips the update, warn logs it and continues")
    check_every_step: bool = opt(False, "check logits and parameters for non-finite values after each update (waits for the device)")
    max_recoveries: int = opt(3, "maximum number of recoveries (with skip: of consecutive skipped updates) before the run stops with a diagnosis", ge=0)
    recovery_skip: int = opt(0, "number of updates before and after the unstable one whose batches are skipped too", ge=0)
    recovery_lr_factor: float = opt(1.0, "factor on the learning rate for the rest of the run, applied at every recovery", gt=0, le=1)
    spike_threshold: float = opt(0.0, "robust standard deviations above the recent median at which a loss or gradient norm counts as a spike; 0 disables spike detection; healthy runs can exceed 12", ge=0)
    spike_window: int = opt(100, "number of recent updates in that median", ge=8, le=10**7)

    opt = section("optimizer")
    optimizer_type: Literal["adamw", "adafactor"] = opt("adamw", "adafactor has a factored second moment, for less memory, and no beta1, beta2")
    learning_rate: float = opt(6e-4, "maximum learning rate, reached after the warm-up", ge=0)
    weight_decay: float = opt(0.1, "weight decay of tensors with at least two dimensions", ge=0)
    beta1: float = opt(0.9, "AdamW's decay rate of the gradient average", ge=0, lt=1)
    beta2: float = opt(0.95, "AdamW's decay rate of the squared gradient average", ge=0, lt=1)

    opt = section("schedule")
    lr_schedule: Literal["cosine", "linear", "constant", "inverse_sqrt", "wsd", "warmup_only", "adaptive", "transfer", "step"] = opt("cosine", "shape after the warm-up: cosine and linear end at min_lr; step multiplies by lr_gamma after each epoch; wsd (warm-up, stable, decay) decays only over its last wsd_decay_iters; warmup_only stays constant for warmup_iters, then approaches min_lr; adaptive decreases when the validation loss stops improving; transfer has a separate learning rate for the head until unfreeze_at_iteration")
    wsd_decay_iters: int = opt(0, "wsd: iterations of the decay that ends at lr_decay_iters; 0: a tenth of lr_decay_iters", ge=0)
    head_lr_multiplier: float = opt(10.0, "transfer: factor on the learning rate of the head while the transformer is frozen", gt=0)
    lr_patience: int = opt(3, "adaptive: number of consecutive evaluations without a lower validation loss before the learning rate decreases", ge=1)
    lr_factor: float = opt(0.5, "adaptive: factor on the learning rate at each decrease", gt=0, lt=1)
    decay_lr: bool = opt(True, "warm up and decay the learning rate; False keeps it constant")
    warmup_iters: int | float = opt(2000, "iterations of linear warm-up", ge=0)
    warmup_ratio: float | None = opt(None, "in place of warmup_iters: share of the run's updates; None: warmup_iters decides", ge=0, le=1)
    lr_gamma: float = opt(0.85, "step: factor on the learning rate after each epoch", gt=0, le=1)
    lr_decay_iters: int | float = opt(600_000, "iteration at which the cosine reaches min_lr; usually max_iters; equal to warmup_iters: the warm-up ends at learning_rate, then min_lr follows at once", ge=0)
    min_lr: float = opt(6e-5, "final learning rate; usually learning_rate / 10; above learning_rate the rate climbs, and a warning says so", ge=0)

    opt = section("system")
    device: str = opt("cuda", "cuda, cuda:1, mps or cpu; plain cuda falls back to mps or cpu if there is no CUDA device", min_length=1)
    dtype: Dtype = opt(best_dtype, "precision of matrix products; auto: bfloat16 if the GPU supports it, else float16; a CPU computes in float32")
    cpu_autocast: bool = opt(False, "let dtype=bfloat16 also take effect on a CPU")
    compile: bool = opt(True, "compile the model with torch.compile")
    cpu_threads: int | None = opt(None, "threads of each process on the CPU; the last bits of losses depend on it; None: torch's choice", ge=1)
    backend: Literal["nccl", "gloo", "mpi", "ucc"] = opt("nccl", "torch.distributed backend; a CPU run uses gloo")
    start_timeout: float = opt(10.0, "minutes in which all processes of a run must have joined the process group; after that each ends with exit status 75", gt=0, le=10080)
    del opt

    NOT_SUPPORTED: ClassVar[Any] = NOT_SUPPORTED
    WITHOUT_EFFECT: ClassVar[Any] = {
        **{name: f"belongs to {switch}, which is not supported" for name, switch in DETAILS.items()},
        **dict.fromkeys(("data_prefer_queue", "data_cache_files"), "use data_source"),
        **dict.fromkeys(
            ("batches_per_file", "max_backlog_files", "sleep_seconds", "data_stream_verbose", "ignore_index", "target_size",
             "mask_probability_range", "max_rounds", "mode_distribution", "alternation_frequency", "source_data_dir",
             "sticky_p1_probability", "sticky_p2_probability"),
            "an option of prepare_streaming.py",
        ),
        **dict.fromkeys(
            ("eval_zero_stats_min_zeros", "eval_zero_stats_max_extra_batches", "eval_reset_val_stream"),
            "every evaluation uses the same texts, unmasked ones among them",
        ),
        "start_iter_num": "a resumed run reads it from the checkpoint",
        "vocab_size": "read from meta.pkl",
        "entropy_modifier_verbose": "it has no effect in the core line either",
    }  # fmt: skip

    READS_OTHERS: ClassVar[bool] = True

    NOT_YET: ClassVar[Any] = frozenset((
        "sample_interval", "webhook",
    ))  # fmt: skip

    NEAR_CONFIG: ClassVar[Any] = frozenset(("dataset_file",))

    BASES: ClassVar[Any] = {
        "config/base_train_run.py": Base(
            line="train_run line",
            own=frozenset((
                "use_paragraph_boundaries", "weight_loss_by_mask_ratio", "enable_entropy_penalty", "max_entropy_penalty",
                "entropy_penalty_start_iter", "uncertainty_factor", "enable_judge_model", "judge_model_checkpoint",
                "start_iter_num", "validation_stages",
            )),
            usual=frozenset((
                "training_type", "unmasking_stages", "use_all_stages_for_training",
                "unmasking_model_checkpoint", "unfreeze_at_iteration", "ckpt_filename",
            )),
            lacks=frozenset(("n_layer", "n_head", "n_embd", "position_encoding", "attention_type", "beta2")),
        )
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
        # sections of YAML files for other trainers
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
        "model.checkpoint_dir": ("out_dir", None),
        "lora_rank": ("lora_r", None),
    }

    def model_args(self, vocab_size: int | None) -> dict[str, Any]:
        """Return the model arguments that checkpoints store: nanoGPT's seven, others only if they are not default."""
        known = self.pick("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")
        args = {**known, "vocab_size": vocab_size, **self.changed("position_encoding", "activation")}
        if self.is_bidirectional:
            args["attention_type"] = "bidirectional"
        if self.training_type == "token_classification":
            args |= {"mode": "token_classifier", "num_token_classes": self.num_token_classes}
        if self.training_type == "sequence_scoring":
            args["mode"] = "sequence_scorer"
        return args

    @property
    def freezes(self) -> bool:
        """True if the transformer is frozen at the start."""
        by_default = self.training_type == "sequence_scoring" and self.unfreeze_at_iteration is not None
        return by_default if self.freeze_transformer is None else self.freeze_transformer

    @property
    def is_bidirectional(self) -> bool:
        """True if a token attends to later tokens."""
        by_default = self.training_type != "language_model"
        return by_default if self.attention_type == "auto" else self.attention_type == "bidirectional"

    @model_validator(mode="before")
    @classmethod
    def _training_type_of_head(cls, values: dict[str, Any]) -> dict[str, Any]:
        heads = {"token_classifier": "token_classification", "sequence_scorer": "sequence_scoring"}
        head, given = values.get("model_mode", "auto"), values.get("training_type", "language_model")
        # the core line's training_type is for its language model head; files with another head set only model_mode
        if head in heads and given not in ("language_model", "unmasking", heads[head]):
            raise ValueError(f"model_mode={head} and training_type={given} contradict each other: remove one of them")
        return {**values, "training_type": heads[head]} if head in heads else values

    @model_validator(mode="after")
    def _check_combinations(self) -> "Options":
        if errors := list(self._conflicts()):
            raise ValueError("\n".join(errors))
        is_hugging_face = self.init_from.startswith("hf:")
        theirs = ["activation", "n_layer", "n_head", "n_embd", "bias"] if is_hugging_face else []
        foreign = self.changed("position_encoding", *theirs)
        if self.is_bidirectional:
            foreign["attention_type"] = "bidirectional"
        if self.init_from not in ("scratch", "resume", "auto") and foreign:
            given = ", ".join(f"{name}={value}" for name, value in foreign.items())
            if is_hugging_face:
                raise ValueError(f"init_from={self.init_from} has an architecture of its own: remove {given}")
            raise ValueError(f"init_from={self.init_from} has causal attention and absolute positions: remove {given}")
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

    def _fine_tuning_conflicts(self) -> Iterator[str]:
        """Yield a message for every conflict between options of LoRA, devices and optimizers."""
        if self.device_map not in (None, "auto", self.device):
            yield f"device_map={self.device_map}: a model that trains is on one device, here device={self.device}: remove it"
        if self.optimizer_type == "adafactor" and (given := sorted({"beta1", "beta2"} & self.model_fields_set)):
            yield f"optimizer_type=adafactor has no {' and no '.join(given)}: remove it"
        if self.use_lora and (self.freezes or self.trainable):
            yield "use_lora=True freezes the model itself: remove freeze_transformer, trainable and unfreeze_at_iteration"

    def _conflicts(self) -> Iterator[str]:
        """Yield a message for every conflict between options."""
        if self.training_type in ("token_classification", "sequence_scoring") and self.attention_type == "causal":
            yield (
                f"training_type={self.training_type} needs bidirectional attention: remove attention_type=causal"
            )
        stages = next((name for name in ("unmasking_stages", "validation_stages") if getattr(self, name)), None)
        if stages and self.training_type == "language_model":
            yield (
                f"{stages} are for masked texts, but training_type=language_model: set training_type=unmasking; put "
                "config/base_train_run.py before a config file of the train_run line, config/base_core_line.py or "
                "config/base_core_line_newest.py before one of the core line"
            )
        if self.composition_config and not os.path.exists(f"data/char_diffusion/config/{self.composition_config}.py"):
            yield (
                f"composition_config={self.composition_config!r}: there is no data/char_diffusion/config/"
                f"{self.composition_config}.py; wanted the name of a file there, or None"
            )
        yield from self._fine_tuning_conflicts()
        if self.init_from_checkpoint and self.init_from not in ("scratch", "resume", "auto"):
            yield f"init_from={self.init_from} and init_from_checkpoint={self.init_from_checkpoint}: remove one of them"
        if self.training_type == "sequence_scoring" and self.block_size < 2:
            yield "block_size=1 has no room for text after the CLS token: set it to 2 or more"
        for low, high in (
            ("guaranteed_unmasked_min", "guaranteed_unmasked_max"), ("mask_ratio_weight_min", "mask_ratio_weight_max"),
            ("judge_weight_min_factor", "judge_weight_max_factor"),
        ):  # fmt: skip
            if getattr(self, low) > getattr(self, high):
                yield f"{low}={getattr(self, low)} is greater than {high}={getattr(self, high)}: swap the two values"
        never_unfreezes = self.unfreeze_at_iteration is not None and self.unfreeze_at_iteration > self.max_iters
        if never_unfreezes and "unfreeze_at_iteration" in self.model_fields_set and (self.freezes or self.trainable):
            yield (
                f"unfreeze_at_iteration={self.unfreeze_at_iteration} is greater than max_iters={self.max_iters}: lower it, or "
                "set it to None to keep the transformer frozen"
            )
        if self.lr_schedule == "transfer" and (self.unfreeze_at_iteration is None or not (self.freezes or self.trainable)):
            yield (
                "lr_schedule=transfer needs a frozen transformer that is unfrozen later: set freeze_transformer=True and "
                "unfreeze_at_iteration"
            )
        if not self.decay_lr and self.lr_schedule not in ("cosine", "transfer", "constant"):
            yield f"decay_lr=False does not apply to lr_schedule={self.lr_schedule}: set lr_schedule=constant"
        if self.judge_weight_modifier_enabled and self.judge_max_iter < self.judge_start_iter:
            yield (
                f"judge_max_iter={self.judge_max_iter} is less than judge_start_iter={self.judge_start_iter}: raise it"
            )


class SampleOptions(Schema):
    """The options of `sample.py`."""

    USAGE: ClassVar[str] = """\
usage: python sample.py [CONFIG.py | OPTIONS.yaml | --option=value] ...
       applied from left to right

  python sample.py --out_dir=out-quickstart --start="def " --num_samples=3
  python sample.py --init_from=gpt2-xl --start=FILE:prompt.txt"""

    opt = section("model")
    init_from: str = opt("resume", "resume (the checkpoint in out_dir); gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder with a Hugging Face GPT-2, in our own model; hf:NAME or hf:FOLDER: any causal language model or image-text model of Hugging Face", text="path", min_length=1)
    out_dir: str = opt("out", "folder of the checkpoint, or the checkpoint file", text="path", min_length=1)
    checkpoint: str = opt("linked", "which checkpoint of out_dir: linked (nanoGPT's ckpt.pt), newest, best (with the lowest validation loss), or the name or path of a file", text="path", min_length=1)
    quantization: Literal["none", "8bit", "4bit"] = opt("none", "load a model of Hugging Face, or the base of an adapter, in 8 or 4 bits; needs the bitsandbytes package")
    device_map: str | None = opt(None, "where the layers of a model of Hugging Face go, such as auto, which fills all devices; None: to device", min_length=1)

    opt = section("text")
    start: str = opt("\n", "the prompt; FILE:path reads it from a file", text="prose")
    image: str | None = opt(None, "file with a picture that the prompt asks about, for an image-text model; the model's chat template puts both together", text="path")
    num_samples: int = opt(10, "number of texts to generate", ge=1)
    max_new_tokens: int = opt(500, "tokens to add to the prompt; an unmasking model adds at most what fits in its block_size", ge=1)
    temperature: float = opt(0.8, "sampling temperature; below 1 more predictable, above 1 more varied; 0: always the most likely token", ge=0)
    top_k: int | None = opt(200, "sample from the k most likely tokens; None or 0: from all tokens", ge=0)
    seed: int = opt(1337, "seed of the random draws", ge=0, le=2**62)
    interactive: bool = opt(False, "chat with the model: each typed line, or line of stdin, is answered; start, if given, is the text before the first line")

    opt = section("unmasking")
    steps: int = opt(50, "number of steps in which the masks are filled", ge=1)
    schedule: Literal["linear", "cosine"] = opt("linear", "how many masks each step fills: linear: the same number in every step; cosine: few at first, more later")
    masking_ratios: list[float] | None = opt(None, "ratio of the masks that remain after each step, instead of steps and schedule; the last step fills all masks")
    order: Literal["confidence", "random"] = opt("random", "which of the tokens drawn in a step are kept: random ones, or those with the highest probability (confidence), which small models fill with spaces")
    remask: bool = opt(False, "also mask tokens of earlier steps again when their probability has become low")
    top_p: float = opt(1.0, "sample from the smallest set of tokens whose total probability reaches top_p; 1: from all tokens", gt=0, le=1)
    mask_char: str | None = opt(None, "character that stands for a mask in the prompt, such as _; only these masks are filled, and nothing is added to the prompt", min_length=1, max_length=1, text="prose")
    judge: str | None = opt(None, "checkpoint file or run folder of a sequence scorer: of several candidates, print the one with the lowest score (least machine-made)", text="path")
    judge_candidates: int = opt(8, "number of candidates that the judge chooses from", ge=1)
    show_steps: bool = opt(False, "print the text after every step; a terminal shows the steps in place without this option")

    opt = section("labels")
    show_probabilities: bool = opt(False, "token classifier: list the probability of every class for each token")
    original: str | None = opt(None, "token classifier: text before its tokens were replaced, to measure the accuracy; FILE:path reads it from a file", text="prose")

    opt = section("system")
    device: str = opt("cuda", "cuda, cuda:1, mps or cpu; plain cuda falls back to mps or cpu if there is no CUDA device", min_length=1)
    dtype: Dtype = opt(best_dtype, "precision of matrix products; a CPU computes in float32")
    cpu_autocast: bool = opt(False, "let dtype=bfloat16 also take effect on a CPU")
    compile: bool = opt(False, "compile the model with torch.compile")
    del opt

    SPELLINGS: ClassVar[Any] = {"init_from": {"auto": "resume"}}  # a training config works here, too

    ALIASES: ClassVar[Any] = {  # nanoGPT forks
        "sequence_length": ("max_new_tokens", None),
        "start_text": ("start", None),
        "diffusion_iterations": ("steps", None),
        "schedule_type": ("schedule", {"linear": "linear", "custom": "linear"}),  # custom: masking_ratios, which takes precedence
        "intelligent_remasking": ("remask", None),
        "use_verbose_logging": ("show_steps", None),
    }

    @model_validator(mode="after")
    def _check_combinations(self) -> "SampleOptions":
        out_of_range = [ratio for ratio in self.masking_ratios or () if not 0 <= ratio <= 1]
        if self.masking_ratios == [] or out_of_range:
            raise ValueError(f"masking_ratios={self.masking_ratios}: wanted at least one number, each between 0 and 1")
        if self.interactive and self.changed("num_samples") and self.num_samples > 1:
            raise ValueError(f"num_samples={self.num_samples}: interactive=True answers each line once: remove num_samples")
        if self.interactive and self.image is not None:
            raise ValueError(f"image={self.image}: interactive=True is a chat in words: remove one of them")
        if self.judge is None and self.changed("judge_candidates"):
            raise ValueError(f"judge_candidates={self.judge_candidates} needs a judge: set judge, or remove judge_candidates")
        return self


# a config file may be given to both programs
Options.ELSEWHERE = dict.fromkeys(SampleOptions.model_fields.keys() - Options.model_fields.keys(), "sample.py")
SampleOptions.ELSEWHERE = dict.fromkeys(Options.model_fields.keys() - SampleOptions.model_fields.keys(), "train.py")
