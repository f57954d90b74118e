"""Config files of two other fine-tuning systems, names of transformers' TrainingArguments, and what stays ours."""

from pathlib import Path
from typing import Any

import pytest

from config import foreign_systems
from config.foreign_systems import RECIPES, VISION, flat, recognise
from config.options import Options
from configurator import configure
from core.errors import ConfigError

ROOT = Path(__file__).parents[2]
RECIPE = """\
experiment_name: "mine"
description: "a description"
tags: ["a", "b"]
model_name: "google/flan-t5-base"
output_dir: "./models/mine"
resume_from_checkpoint: null
hardware: {cpu_cores: 12, cpu_threads: 4, gpu_vram_gb: 24.0, system_ram_gb: 48}
data:
  validated_data_dir: "./cli/validated_datasets"
  min_quality_score: 0.5
  max_input_length: 128
  max_target_length: 256
  train_split: 0.95
  shuffle: true
  num_workers: 2
  use_rust_loader: false
optimization:
  optimizer_type: "adamw_fused"
  learning_rate: 1e-3
  weight_decay: 0.02
  max_grad_norm: 0.5
  warmup_steps: 100
  scheduler_type: "linear"
  betas: [0.9, 0.99]
  eps: 1.0e-08
training:
  num_epochs: 2
  batch_size: 16
  gradient_accumulation_steps: 3
  use_bf16: false
  use_fp16: true
  gradient_checkpointing: false
  use_flash_attention: false
  use_torch_compile: true
  disable_cudagraphs: true
  checkpoint_every_n_steps: 500
  keep_best_n_checkpoints: 2
  early_stopping_patience: 10
  early_stopping_threshold: 0.001
  use_lora: true
  lora_r: 4
  lora_alpha: 8
  lora_dropout: 0.1
  lora_target_modules: ["q", "v", "o"]
monitoring:
  use_wandb: false
  wandb_project: "test"
  wandb_entity: null
  discord_webhook: "https://example.org/hook"
  log_every_n_steps: 10
  eval_every_n_steps: 100
  generate_samples_every_n_steps: 100
  monitor_system_metrics: false
evaluation: {compute_bleu: true, compute_rouge: false, validation_prompts: ["Make a simple recipe."]}
"""
VISION_FILE = """\
dataset: {name: custom_dataset, file: pictures.py, test_split: test, split_ratio: 0.8, subset_size: 100,
  use_subset: true}
model: {name: org/llama-vision, type: vision, peft: true, peft_method: lora, use_fast_kernels: true}
checkpoint: {root_dir: tuned, dir_name: mine, create_backups: true, backup_format: "backup_{job_num}"}
training: {batch_size: 8, lr: 1e-5, weight_decay: 0.01, gamma: 0.85, epochs_per_job: 2, total_jobs: 10,
  gradient_accumulation_steps: 2, run_validation: true, enable_fsdp: true, batching_strategy: padding, use_wandb: true}
slurm: {partition: gpucluster, time: "04:00:00", nodes: 1, job_name: llama_training, output_path: logs, gpu_id: 3}
wandb: {project: llama_recipes, group_format: "run_{date}"}
evaluation: {batch_size: 8, visualize: false, metrics: [distance], peft_model_path: x}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return tmp_path


def read(text: str, *flags: str, name: str = "x.yaml") -> Options:
    Path(name).write_text(text, newline="")
    return configure(Options, [name, *flags])


def changed(options: Options) -> dict[str, Any]:
    return {name: value for name, value in options.model_dump().items() if value != Options.defaults()[name]}


def test_a_file_of_the_recipe_trainer_loads_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cli/validated_datasets").mkdir(parents=True)
    Path("cli/validated_datasets/soups_flan_t5.jsonl").write_text("{}\n")
    expected = {
        "init_from": "hf:google/flan-t5-base", "out_dir": "./models/mine", "wandb_run_name": "mine",
        "wandb_tags": ["a", "b"], "cpu_threads": 4, "dataset": "hf:cli/validated_datasets/*_flan_t5.jsonl",
        "prompt_column": "input", "response_column": "output", "min_quality_score": 0.5, "max_input_length": 128,
        "max_target_length": 256, "block_size": 256, "split_ratio": 0.95, "learning_rate": 1e-3, "weight_decay": 0.02,
        "grad_clip": 0.5, "warmup_iters": 100, "lr_schedule": "linear", "min_lr": 0.0, "beta2": 0.99, "num_epochs": 2,
        "batch_size": 16, "gradient_accumulation_steps": 3, "compile": False, "save_interval": 500, "keep_best": 2,
        "early_stopping_patience": 10, "early_stopping_threshold": 0.001, "use_lora": True, "lora_r": 4,
        "lora_alpha": 8, "lora_dropout": 0.1, "lora_target_modules": ["q", "v", "o"], "wandb_project": "test",
        "log_interval": 10,
        "eval_interval": 100, "eval_iters": 10**6,
    }  # fmt: skip
    found = read(RECIPE)

    assert changed(found) == {**expected, **({"dtype": "float16"} if Options.defaults()["dtype"] != "float16" else {})}
    assert found.dtype == "float16"
    notes = capsys.readouterr().err.splitlines()
    assert notes[0] == ("x.yaml: a config of the recipe trainer")
    assert notes[1].startswith("x.yaml: no effect yet: monitoring.discord_webhook, monitoring.generate_samples")
    assert "compute_bleu" in notes[1] and "compute_rouge" not in notes[1]
    assert notes[2].startswith("x.yaml: without effect there or here: description, hardware.cpu_cores")


def test_a_file_of_the_vision_pipeline_loads_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    found = read(VISION_FILE)
    expected = {
        "dataset_file": "pictures.py", "val_split": "test", "split_ratio": 0.8, "use_subset": True,
        "init_from": "hf:org/llama-vision", "use_lora": True, "lora_r": 8, "lora_target_modules": ["q_proj", "v_proj"],
        "out_dir": "tuned/mine", "batch_size": 8, "learning_rate": 1e-5, "weight_decay": 0.01, "lr_schedule": "step",
        "epochs_per_job": 2, "gradient_accumulation_steps": 2, "wandb_log": True, "wandb_project": "llama_recipes",
        "warmup_iters": 0, "beta2": 0.999, "grad_clip": 0.0, "dtype": "bfloat16",
    }  # fmt: skip

    assert {name: changed(found).get(name) for name in expected} == expected
    assert found.lr_gamma == 0.85 and len(found.wandb_group or "") == len("run_20260101")
    notes = capsys.readouterr().err
    assert "training.total_jobs, training.enable_fsdp, slurm.partition" in notes
    assert "without effect there or here: dataset.name, model.type, training.run_validation" in notes


def test_keys_left_out_take_that_systems_defaults_and_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    found = read("data:\n  validated_data_dir: recipes\ntraining:\n")

    assert (found.init_from, found.learning_rate, found.num_epochs) == ("hf:google/flan-t5-large", 5e-4, 3)
    assert (found.block_size, found.batch_size, found.lr_schedule) == (512, 32, "linear")
    notes = capsys.readouterr().err
    assert "keys left out have its defaults: model_name=google/flan-t5-large, output_dir=" in notes
    assert "monitoring.wandb_entity" not in notes and "no effect yet: monitoring.generate_samples" in notes
    assert "learning_rate" not in found.model_fields_set and "dataset" in found.model_fields_set


def test_accumulation_counts_for_each_process_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert read(RECIPE).gradient_accumulation_steps == 12
    assert read(VISION_FILE).gradient_accumulation_steps == 8
    assert read("gradient_accumulation_steps: 8\nper_device_train_batch_size: 2\n").gradient_accumulation_steps == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE.replace("num_epochs", "num_epoch"), "unknown key 'training.num_epoch' of .*, did you mean 'train"),
        (RECIPE.replace("1.0e-08", "1e-6"), r"optimization.eps=1e-6: here it is 1e-8 always: remove it"),
        (RECIPE.replace("use_bf16: false", "use_bf16: true"), "use_bf16 and training.use_fp16 contradict each other"),
        (RECIPE.replace("[0.9, 0.99]", "0.9"), "optimization.betas: got 0.9, wanted two numbers"),
        (RECIPE.replace("batch_size: 16", "batch_size: many"), "batch_size: got 'many', wanted int >= 1"),
        (VISION_FILE.replace("file: pictures.py, ", ""), "dataset.file is missing: wanted the name of a Python file"),
        (VISION_FILE.replace("peft_method: lora", "peft_method: prefix"), "model.peft_method='prefix': wanted 'lora'"),
        (VISION_FILE.replace("padding", "sorting"), "batching_strategy='sorting': wanted 'padding' or 'packing'"),
        (VISION_FILE.replace("gamma: 0.85", "gama: 0.85"), "unknown key 'training.gama' of .*, did you mean 'train"),
    ],
)  # fmt: skip
def test_what_such_a_file_has_wrong_is_one_message(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text)


@pytest.mark.parametrize("text", [RECIPE, VISION_FILE])
def test_windows_line_ends_and_our_own_options_next_to_theirs(text: str) -> None:
    found = read(text.replace("\n", "\r\n") + "eval_rng: isolated\r\n", "--batch_size=5")
    assert (found.eval_rng, found.batch_size) == ("isolated", 5)
    assert found.learning_rate in (1e-3, 1e-5)


def test_a_mixture_and_other_files_take_ours() -> None:
    assert recognise({"hardware": {"cpu_cores": 1}, "slurm": {"nodes": 1}}) is None
    assert recognise({"optimization": {"learning_rate": 1}, "training": {"batch_size": 2, "epochs_per_job": 1}}) is None
    assert recognise({"training": {"lr": 1}, "wandb": {"project": "x"}, "model": {"n_layer": 1}}) is None
    assert recognise({"hardware": {"cpu_cores": 1}}) is RECIPES and recognise({"slurm": {"nodes": 1}}) is VISION


def test_our_own_files_are_of_no_other_system(capsys: pytest.CaptureFixture[str]) -> None:
    """Each preset, options as a run saves them, and every section with every option."""
    for path in sorted((ROOT / "config").rglob("*.yaml")):
        configure(Options, [str(path)])
    Options().save("saved.yaml")
    assert configure(Options, ["saved.yaml"]) == Options()
    sections = {heading: dict.fromkeys(names) for heading, names in Options.sections().items()}
    assert recognise(sections) is None and recognise(Options().model_dump()) is None
    assert "a config of" not in capsys.readouterr().err


def test_every_translated_option_exists() -> None:
    for system, more in ((RECIPES, {}), (VISION, {"dataset.file": "x.py"})):
        for option, value, paths in system.translated({**system.defaults, **more}):
            assert option in Options.model_fields and set(paths) <= system.known()
            Options.fit(option, value)
    assert not RECIPES.signs & VISION.signs and flat({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}


def test_names_of_training_arguments_count_in_mappings() -> None:
    found = read(
        "per_device_train_batch_size: 4\nlogging_steps: 5\neval_steps: 50\nsave_steps: 100\nsave_total_limit: 3\n"
        "load_best_model_at_end: true\nmetric_for_best_model: eval_loss\ngreater_is_better: false\nmax_steps: 50\n"
        "warmup_steps: 5\nlr_scheduler_type: linear\nreport_to: [wandb]\nbf16: true\nfp16: false\nlearning_rate: 5e-5\n"
        "gradient_checkpointing: false\nmax_grad_norm: 2\nadam_beta2: 0.999\noutput_dir: mine\n"
        "gradient_accumulation: 6\n"
    )
    assert changed(found) == {
        "batch_size": 4, "log_interval": 5, "eval_interval": 50, "save_interval": 100, "keep_last": 3,
        "final_model": "best", "max_iters": 49, "lr_decay_iters": 50, "warmup_iters": 5, "lr_schedule": "linear",
        "min_lr": 0.0, "wandb_log": True, "dtype": "bfloat16", "learning_rate": 5e-5, "grad_clip": 2.0, "beta2": 0.999,
        "out_dir": "mine", "gradient_accumulation_steps": 6,
    }  # fmt: skip
    assert read("max_steps: -1\nnum_train_epochs: 2\nlr_scheduler_type: constant\n").num_epochs == 2
    assert read('{"per_device_train_batch_size": 3}', name="x.json").batch_size == 3
    assert read("training: {per_device_train_batch_size: 3}\nmodel: {checkpoint_dir: there}\n").out_dir == "there"
    with pytest.raises(ConfigError, match="x.yaml: cannot read max_steps='many'"):
        read("max_steps: many\n")


@pytest.mark.parametrize("name", ["max_steps", "warmup_steps", "per_device_train_batch_size"])
def test_as_flags_they_are_errors_that_name_ours(name: str) -> None:
    option = {"max_steps": "max_iters", "warmup_steps": "warmup_iters"}.get(name, "batch_size")
    with pytest.raises(ConfigError, match=f"unknown option '{name}', did you mean '{option}'"):
        configure(Options, [f"--{name}=3"])


def test_the_plans_switches_of_lora_work_in_every_kind_of_file() -> None:
    both = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    found = read("use_lora_attn: true\nuse_lora_mlp: true\nlora_rank: 4\n")
    assert (found.use_lora, found.lora_r, found.lora_target_modules) == (True, 4, both)
    found = read("use_lora_attn = False\nuse_lora_mlp = True\nlora_rank = 4\n", name="x.py")
    assert (found.use_lora, found.lora_r, found.lora_target_modules) == (True, 4, both[2:])
    found = configure(Options, ["--use_lora_attn=True", "--lora_rank=2"])
    assert (found.use_lora, found.lora_r, found.lora_target_modules) == (True, 2, both[:2])
    assert not read("use_lora_attn: false\n").use_lora


def test_options_without_a_part_are_refused_in_files_of_ours() -> None:
    with pytest.raises(ConfigError, match="sample_interval has no effect yet: remove it"):
        read("sample_interval: 5\n")
    with pytest.raises(ConfigError, match="webhook has no effect yet: remove it"):
        configure(Options, ["--webhook=https://example.org"])


def test_the_config_flag_is_the_bare_file() -> None:
    Path("x.yaml").write_text("batch_size: 3\n")
    for argv in (["--config", "x.yaml"], ["--config=x.yaml"], ["x.yaml"]):
        assert configure(Options, [*argv, "--n_layer=2"]).batch_size == 3
    with pytest.raises(ConfigError, match="--config"):
        configure(Options, ["--config"])
    assert set(foreign_systems.LORA_PARTS) == {"use_lora_attn", "use_lora_mlp"}
