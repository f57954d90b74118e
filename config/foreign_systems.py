"""YAML files of two other fine-tuning systems, by their full paths, and names of transformers' TrainingArguments.

The recipe trainer fine-tunes T5 on recipes; the vision pipeline fine-tunes a Llama on images under SLURM. A file of one
of them is told by keys that only it has. Keys that such a file leaves out have that system's defaults.
"""

import difflib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Values = Mapping[str, Any]  # of a file, by full path
Pairs = Iterator[tuple[str, Any, tuple[str, ...]]]  # option, its value, and the paths that it comes from


class System(NamedTuple):
    """Another program's config files.

    name:       what it is called in messages
    signs:      paths, or sections with all their paths, that only its files have
    defaults:   what it takes for a path that a file leaves out; only such paths are known, and those below
    translated: returns our options for the values of a file
    not_yet:    paths whose part does not exist here yet
    idle:       paths that had no effect there, or have none here
    """

    name: str
    signs: frozenset[str]
    defaults: Values
    translated: Callable[[Values], Pairs]
    not_yet: frozenset[str]
    idle: frozenset[str]

    def known(self) -> set[str]:
        """Return all paths that its files may have."""
        return {*self.defaults, *self.not_yet, *self.idle}


class Translation(NamedTuple):
    """What a file of another system means here. options: (option, value, whether a key of the file says it)"""

    options: list[tuple[str, Any, bool]]
    errors: list[str]
    notes: list[str]


def recognise(content: Mapping[Any, Any]) -> System | None:
    """Return the system whose file this is, by keys that only its files have; None for any other, and for a mixture."""
    paths = set(flat(content))
    found = [system for system in (RECIPES, VISION) if any(_is_sign(path, system.signs) for path in paths)]
    return found[0] if len(found) == 1 else None


def flat(content: Mapping[Any, Any], above: str = "") -> dict[str, Any]:
    """Return the values of nested sections by their full paths."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        path = f"{above}{key}"
        found |= flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found


def translate(path: str, content: Mapping[Any, Any], system: System, ours: set[str]) -> Translation:
    """Return our options for a file. ours: names of our options, which such a file may set as well"""
    given = {key: value for key, value in flat(content).items() if value is not None}
    own = {key: given.pop(key) for key in sorted(given.keys() & ours - system.known())}
    unknown = [key for key in given if key not in system.known()]
    errors = [f"{path}: unknown key {key!r} of {system.name}{_near(key, system.known())}" for key in unknown]
    left_out = {key: value for key, value in system.defaults.items() if key not in given and value is not None}
    try:
        pairs = list(system.translated({**system.defaults, **given}))
    except ValueError as error:
        return Translation([], [*errors, f"{path}: {error}"], [])
    options = [(option, value, any(key in given for key in keys)) for option, value, keys in pairs]
    options += [(key, value, True) for key, value in own.items()]
    taken = ", ".join(f"{key}={value}" for key, value in left_out.items())
    wanted = {**left_out, **given}
    not_yet = [key for key, value in wanted.items() if key in system.not_yet and value not in (False, [])]
    idle = [key for key in given if key in system.idle]
    notes = [
        f"{path}: a config of {system.name}" + (f"; keys left out have its defaults: {taken}" if taken else ""),
        *([f"{path}: no effect yet: {', '.join(not_yet)}"] if not_yet else []),
        *([f"{path}: without effect there or here: {', '.join(idle)}"] if idle else []),
    ]
    return Translation(options, errors, notes)


def _is_sign(path: str, signs: frozenset[str]) -> bool:
    section, dot, _ = path.partition(".")
    return path in signs or section + dot in signs


def _near(key: str, known: set[str]) -> str:
    last = key.rpartition(".")[2]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    same = [name for name in sorted(known) if name.rpartition(".")[2] == last]
    return f", did you mean {(same or near)[0]!r}?" if same or near else ""


def _processes() -> int:
    """Return the number of processes: in these files, accumulation counts for each of them."""
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isdecimal() else 1


# the recipe trainer

RECIPE_DEFAULTS: dict[str, Any] = {
    "model_name": "google/flan-t5-large",
    "output_dir": "./optimized_model",
    "resume_from_checkpoint": None,
    "experiment_name": "default_experiment",
    "tags": None,
    "hardware.cpu_threads": None,
    "data.validated_data_dir": "./cli/validated_datasets",
    "data.min_quality_score": 0.6,
    "data.max_input_length": 256,
    "data.max_target_length": 512,
    "data.train_split": 0.9,
    "optimization.optimizer_type": "adamw",
    "optimization.learning_rate": 5e-4,
    "optimization.weight_decay": 0.01,
    "optimization.max_grad_norm": 1.0,
    "optimization.warmup_steps": 1000,
    "optimization.scheduler_type": "linear",
    "optimization.betas": (0.9, 0.999),
    "optimization.eps": 1e-8,
    "training.num_epochs": 3,
    "training.batch_size": 32,
    "training.gradient_accumulation_steps": 1,
    "training.use_bf16": True,
    "training.use_fp16": False,
    "training.gradient_checkpointing": True,
    "training.use_flash_attention": True,
    "training.use_torch_compile": True,
    "training.checkpoint_every_n_steps": 1000,
    "training.keep_best_n_checkpoints": 3,
    "training.early_stopping_patience": 3,
    "training.early_stopping_threshold": 1e-4,
    "training.use_lora": False,
    "training.lora_r": 16,
    "training.lora_alpha": 32,
    "training.lora_dropout": 0.05,
    "training.lora_target_modules": ["q", "v"],
    "monitoring.use_wandb": True,
    "monitoring.wandb_project": "chef-genius-optimized",
    "monitoring.wandb_entity": None,
    "monitoring.log_every_n_steps": 50,
    "monitoring.eval_every_n_steps": 1000,
    "monitoring.generate_samples_every_n_steps": 1000,
    "monitoring.discord_webhook": None,
    "monitoring.alert_phone": None,
    "evaluation.compute_bleu": True,
    "evaluation.compute_rouge": True,
}
RECIPE_FILES = ("combined_all_datasets_flan_t5.jsonl", "*_flan_t5.jsonl", "flan_t5_*.jsonl", "combined_*_flan_t5.jsonl")
SAME_NAMES = ("lora_r", "lora_alpha", "lora_dropout", "use_lora", "early_stopping_patience", "early_stopping_threshold")


def _recipe_options(values: Values) -> Pairs:
    """Yield our options for a file of the recipe trainer. Raises ValueError for values that cannot be had here."""

    def same(path: str, option: str, convert: Callable[[Any], Any] = lambda value: value) -> Pairs:
        if values[path] is not None:
            yield option, convert(values[path]), (path,)

    start = values["resume_from_checkpoint"] or values["model_name"]
    yield "init_from", f"hf:{start}", ("resume_from_checkpoint", "model_name")
    yield from same("output_dir", "out_dir")
    yield from same("experiment_name", "wandb_run_name")
    yield from same("tags", "wandb_tags", list)
    yield from same("hardware.cpu_threads", "cpu_threads")
    yield from same("data.validated_data_dir", "dataset", _recipe_dataset)
    yield "prompt_column", "input", ()
    yield "response_column", "output", ()
    yield from same("data.min_quality_score", "min_quality_score")
    lengths = "data.max_input_length", "data.max_target_length"
    for path, option in zip(lengths, ("max_input_length", "max_target_length"), strict=True):
        yield from same(path, option)
    yield "block_size", max(int(values[path]) for path in lengths), lengths
    yield from same("data.train_split", "split_ratio")
    yield from _recipe_optimization(values)
    yield from same("training.num_epochs", "num_epochs")
    yield from same("training.batch_size", "batch_size")
    steps = "training.gradient_accumulation_steps"
    yield from same(steps, "gradient_accumulation_steps", lambda count: int(count) * _processes())
    kinds = "training.use_bf16", "training.use_fp16"
    if values[kinds[0]] and values[kinds[1]]:
        raise ValueError("training.use_bf16 and training.use_fp16 contradict each other: set one of them to false")
    yield "dtype", "bfloat16" if values[kinds[0]] else "float16" if values[kinds[1]] else "float32", kinds
    yield from same("training.gradient_checkpointing", "activation_checkpointing", lambda on: "full" if on else "none")
    yield from same("training.use_flash_attention", "attention", lambda on: "flash" if on else "sdpa")
    yield from same("training.use_torch_compile", "compile", lambda on: bool(on) and not values["training.use_lora"])
    yield from same("training.checkpoint_every_n_steps", "save_interval")
    yield from same("training.keep_best_n_checkpoints", "keep_best")
    for name in SAME_NAMES:
        yield from same(f"training.{name}", name)
    if values["training.use_lora"]:
        yield from same("training.lora_target_modules", "lora_target_modules", list)
    for path, option in (("use_wandb", "wandb_log"), ("wandb_project", "wandb_project"), ("wandb_entity", "wandb_entity")):
        yield from same(f"monitoring.{path}", option)
    yield from same("monitoring.log_every_n_steps", "log_interval")
    yield from same("monitoring.eval_every_n_steps", "eval_interval")
    yield "eval_iters", 10**6, ()  # the validation rows as a whole


def _recipe_optimization(values: Values) -> Pairs:
    """Yield the options of optimizer and schedule."""
    kind = values["optimization.optimizer_type"]
    yield "optimizer_type", "adamw" if kind == "adamw_fused" else kind, ("optimization.optimizer_type",)
    for name, option in (("learning_rate", "learning_rate"), ("weight_decay", "weight_decay"), ("max_grad_norm", "grad_clip")):
        yield option, values[f"optimization.{name}"], (f"optimization.{name}",)
    schedule = values["optimization.scheduler_type"]
    yield "lr_schedule", schedule, ("optimization.scheduler_type",)
    warmup = 0 if schedule == "constant" else values["optimization.warmup_steps"]
    yield "warmup_iters", warmup, ("optimization.warmup_steps",)
    yield "min_lr", 0.0, ()
    betas = values["optimization.betas"]
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise ValueError(f"optimization.betas: got {betas!r}, wanted two numbers, such as [0.9, 0.999]")
    if kind != "adafactor":
        yield "beta1", betas[0], ("optimization.betas",)
        yield "beta2", betas[1], ("optimization.betas",)
    if float(values["optimization.eps"]) != 1e-8:
        raise ValueError(f"optimization.eps={values['optimization.eps']}: here it is 1e-8 always: remove it")


def _recipe_dataset(folder: Any) -> str:
    """Return the data set in a folder, by the names that the recipe trainer looks for; `cli/` may come before it."""
    places = [Path(str(folder)), Path("cli", str(folder))]
    for place in places:
        for name in RECIPE_FILES:
            if any(place.glob(name)):
                return f"hf:{place / name}"
    return f"hf:{places[0] / RECIPE_FILES[0]}"


RECIPES = System(
    name="the recipe trainer",
    signs=frozenset((
        "hardware.", "data.validated_data_dir", "data.use_rust_loader", "optimization.optimizer_type",
        "optimization.scheduler_type", "optimization.betas", "optimization.eps", "training.checkpoint_every_n_steps",
        "training.keep_best_n_checkpoints", "training.use_bf16", "training.use_fp16", "training.disable_cudagraphs",
        "training.use_flash_attention", "monitoring.discord_webhook", "monitoring.alert_phone",
        "monitoring.generate_samples_every_n_steps", "monitoring.monitor_system_metrics",
        "monitoring.monitor_data_pipeline", "evaluation.compute_bleu", "evaluation.compute_rouge",
        "evaluation.compute_perplexity", "evaluation.compute_ingredient_coherence",
        "evaluation.compute_instruction_quality", "evaluation.validation_prompts",
    )),
    defaults=RECIPE_DEFAULTS,
    translated=_recipe_options,
    not_yet=frozenset((
        "monitoring.discord_webhook", "monitoring.alert_phone", "monitoring.generate_samples_every_n_steps",
        "evaluation.compute_bleu", "evaluation.compute_rouge", "evaluation.validation_prompts",
        "evaluation.compute_ingredient_coherence", "evaluation.compute_instruction_quality",
        "evaluation.compute_perplexity",
    )) ,
    idle=frozenset((
        "description", "hardware.cpu_cores", "hardware.gpu_vram_gb", "hardware.system_ram_gb", "data.shuffle",
        "data.num_workers", "data.use_rust_loader", "training.disable_cudagraphs", "monitoring.monitor_system_metrics",
        "monitoring.monitor_data_pipeline",
    )),
)  # fmt: skip


# the vision pipeline

VISION_DEFAULTS: dict[str, Any] = {
    "dataset.file": None,
    "dataset.test_split": "test",
    "dataset.split_ratio": 0.8,
    "dataset.subset_size": 100,
    "dataset.use_subset": False,
    "model.name": "meta-llama/Llama-3.2-11B-Vision-Instruct",
    "model.peft": True,
    "model.peft_method": "lora",
    "model.use_fast_kernels": True,
    "checkpoint.root_dir": "finetuned_model",
    "checkpoint.dir_name": "fine-tuned",
    "checkpoint.create_backups": True,
    "training.batch_size": 8,
    "training.lr": 1e-5,
    "training.weight_decay": 0.01,
    "training.gamma": 0.85,
    "training.epochs_per_job": 1,
    "training.total_jobs": 1,
    "training.gradient_accumulation_steps": 1,
    "training.enable_fsdp": False,
    "training.batching_strategy": "padding",
    "training.use_wandb": False,
    "wandb.project": None,
    "wandb.group_format": None,
}


def _vision_options(values: Values) -> Pairs:
    """Yield our options for a file of the vision pipeline. Raises ValueError for values that cannot be had here."""

    def same(path: str, option: str, convert: Callable[[Any], Any] = lambda value: value) -> Pairs:
        if values[path] is not None:
            yield option, convert(values[path]), (path,)

    if values["dataset.file"] is None:
        raise ValueError("dataset.file is missing: wanted the name of a Python file with get_custom_dataset")
    yield from same("dataset.file", "dataset_file")
    yield from same("dataset.test_split", "val_split")
    for name in ("split_ratio", "subset_size", "use_subset"):
        yield from same(f"dataset.{name}", name)
    yield from same("model.name", "init_from", lambda name: f"hf:{name}")
    method = values["model.peft_method"]
    if values["model.peft"] and method != "lora":
        raise ValueError(f"model.peft_method={method!r}: wanted 'lora'")
    yield from same("model.peft", "use_lora")
    if values["model.peft"]:  # what its adapters have
        yield "lora_r", 8, ()
        yield "lora_target_modules", ["q_proj", "v_proj"], ()
    yield from same("model.use_fast_kernels", "attention", lambda on: "sdpa" if on else "manual")
    folder = "checkpoint.root_dir", "checkpoint.dir_name"
    yield "out_dir", os.path.join(*(str(values[path]) for path in folder)), folder
    for path, option in (("batch_size", "batch_size"), ("lr", "learning_rate"), ("weight_decay", "weight_decay")):
        yield from same(f"training.{path}", option)
    yield "lr_schedule", "step", ()
    yield from same("training.gamma", "lr_gamma")
    yield from same("training.epochs_per_job", "epochs_per_job")
    steps = "training.gradient_accumulation_steps"
    yield from same(steps, "gradient_accumulation_steps", lambda count: int(count) * _processes())
    strategy = values["training.batching_strategy"]
    if strategy not in ("padding", "packing"):
        raise ValueError(f"training.batching_strategy={strategy!r}: wanted 'padding' or 'packing'")
    yield "packing", strategy == "packing", ("training.batching_strategy",)
    yield from same("training.use_wandb", "wandb_log")
    yield from same("wandb.project", "wandb_project")
    yield from same("wandb.group_format", "wandb_group", lambda text: str(text).format(date=time.strftime("%Y%m%d")))
    for option, value in (("warmup_iters", 0), ("beta2", 0.999), ("grad_clip", 0.0), ("dtype", "bfloat16")):
        yield option, value, ()
    for option, value in (("block_size", 4096), ("eval_interval", 100), ("eval_iters", 10**6), ("log_interval", 1)):
        yield option, value, ()
    yield "compile", False, ()


VISION = System(
    name="the vision pipeline",
    signs=frozenset((
        "slurm.", "checkpoint.", "dataset.", "model.peft", "model.peft_method", "model.use_fast_kernels",
        "training.total_jobs", "training.run_validation", "training.enable_fsdp", "training.batching_strategy",
        "wandb.group_format",
    )),
    defaults=VISION_DEFAULTS,
    translated=_vision_options,
    not_yet=frozenset((
        "checkpoint.create_backups", "checkpoint.backup_format", "training.total_jobs", "training.enable_fsdp",
        "slurm.partition", "slurm.time", "slurm.nodes", "slurm.job_name", "slurm.output_path", "slurm.output",
        "slurm.gpu_id", "evaluation.batch_size", "evaluation.visualize", "evaluation.metrics",
        "evaluation.peft_model_path",
    )),
    idle=frozenset(("dataset.name", "model.type", "training.run_validation")),
)  # fmt: skip


# names of transformers' TrainingArguments, in any YAML file

SCHEDULES = {"constant_with_warmup": "constant", "warmup_stable_decay": "wsd"}


def _named(option: str, convert: Callable[[Any], Any] = lambda value: value) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {option: convert(value)}


def _if_true(**options: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda value: options if value else {}


def _schedule(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"lr_schedule": SCHEDULES.get(value, value)}
    return {**found, "warmup_iters": 0} if value == "constant" else {**found, "min_lr": 0.0}


def _steps(value: Any) -> dict[str, Any]:
    """Return the options for a number of updates; -1 means that none is given."""
    return {"max_iters": int(value) - 1, "lr_decay_iters": int(value)} if int(value) > 0 else {}


TRAINING_ARGUMENTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "per_device_train_batch_size": _named("batch_size"),
    "logging_steps": _named("log_interval"),
    "eval_steps": _named("eval_interval"),
    "save_steps": _named("save_interval"),
    "save_total_limit": _named("keep_last"),
    "load_best_model_at_end": _named("final_model", lambda on: "best" if on else "last"),
    "metric_for_best_model": _named("best_metric", lambda name: "val_loss" if name in ("loss", "eval_loss") else name),
    "greater_is_better": _named("best_mode", lambda on: "max" if on else "min"),
    "lr_scheduler_type": _schedule,
    "max_steps": _steps,
    "warmup_steps": _named("warmup_iters"),
    "num_train_epochs": _named("num_epochs"),
    "report_to": _named("wandb_log", lambda names: "wandb" in (names if isinstance(names, list) else [names])),
    "bf16": _if_true(dtype="bfloat16"),
    "fp16": _if_true(dtype="float16"),
    "gradient_checkpointing": _named("activation_checkpointing", lambda on: "full" if on else "none"),
    "max_grad_norm": _named("grad_clip"),
    "adam_beta1": _named("beta1"),
    "adam_beta2": _named("beta2"),
    "output_dir": _named("out_dir"),
    "run_name": _named("wandb_run_name"),
    "torch_compile": _named("compile"),
    "gradient_accumulation": _named("gradient_accumulation_steps"),
}


# switches that stand for several options

LORA_PARTS = {"use_lora_attn": ["attn.c_attn", "attn.c_proj"], "use_lora_mlp": ["mlp.c_fc", "mlp.c_proj"]}


def lora_part(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for LoRA next to some layers of model.GPT, in addition to layers that the values name."""
    before = values["lora_target_modules"] if values["use_lora"] else None
    named = before if isinstance(before, list) else []
    return {"use_lora": True, "lora_target_modules": [*named, *(layer for layer in LORA_PARTS[name] if layer not in named)]}
