"""The options that users rely on: nanoGPT's names and defaults, and the complete list of names."""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch

from config.options import Options, SampleOptions
from config.schema import Schema
from configurator import configure
from core.errors import ConfigError

# nanoGPT's 33 options and their defaults; dtype depends on the machine
NANOGPT = dict(
    out_dir="out", eval_interval=2000, log_interval=1, eval_iters=200, eval_only=False, always_save_checkpoint=True,
    init_from="scratch", wandb_log=False, wandb_project="owt", wandb_run_name="gpt2", dataset="openwebtext",
    gradient_accumulation_steps=40, batch_size=12, block_size=1024, n_layer=12, n_head=12, n_embd=768, dropout=0.0,
    bias=False, learning_rate=6e-4, max_iters=600000, weight_decay=0.1, beta1=0.9, beta2=0.95, grad_clip=1.0,
    decay_lr=True, warmup_iters=2000, lr_decay_iters=600000, min_lr=6e-5, backend="nccl", device="cuda", compile=True,
)  # fmt: skip
NANOGPT_SAMPLE = dict(init_from="resume", out_dir="out", start="\n", num_samples=10, max_new_tokens=500,
                      temperature=0.8, top_k=200, seed=1337, device="cuda", compile=False)  # fmt: skip

# every name that a user's config file may set; removing or renaming one breaks that file
OPTION_NAMES = {
    Options: {
        "run": "out_dir init_from resume_rng eval_only training_type model_mode ckpt_filename callbacks_file seed",
        "evaluation": "eval_interval eval_iters eval_rng",
        "checkpoints": "always_save_checkpoint save_interval save_minutes keep_last keep_best best_metric best_mode "
        "early_stopping_patience early_stopping_threshold final_model async_save time_limit",
        "logging": "log_interval wandb_log wandb_project wandb_run_name wandb_log_interval wandb_entity wandb_group "
        "wandb_tags sample_interval webhook",
        "data": "dataset data_source data_wait_sleep_seconds data_wait_timeout_seconds "
        "use_paragraph_boundaries enable_line_aligned_sequences",
        "rows": "dataset_file tokenizer dataset_config train_split val_split split_ratio split_seed text_column "
        "prompt_column response_column messages_column chat_template min_quality_score quality_column max_input_length "
        "max_target_length packing streaming shuffle_buffer drop_duplicates use_subset subset_size pad_to_multiple_of",
        "model": "n_layer n_head n_embd block_size dropout bias attention_type position_encoding activation attention "
        "activation_checkpointing quantization device_map",
        "lora": "use_lora lora_r lora_alpha lora_dropout lora_target_modules lora_modules_to_save",
        "objective": "loss_mean num_token_classes class_weights guaranteed_unmasked_max guaranteed_unmasked_min "
        "random_mask_warmup p1_p2_ratio mask_token_id cls_token_id unmasking_model_checkpoint fill "
        "fill_temperature fill_top_k score_transform",
        "stages": "unmasking_stages validation_stages use_all_stages_for_training composition_config mask_probability",
        "modifiers": "loss_modifiers_enabled target_smoothing_enabled target_smoothing_factor "
        "target_smoothing_special_tokens target_smoothing_exclude_padding "
        "target_smoothing_padding_token entropy_modifier_enabled entropy_modifier_weight "
        "entropy_modifier_threshold entropy_modifier_eps "
        "mask_ratio_weight_enabled mask_ratio_weight_power mask_ratio_weight_min "
        "mask_ratio_weight_max mask_ratio_weight_eps judge_weight_modifier_enabled "
        "judge_weight_checkpoint judge_weight_exponent judge_start_iter judge_max_iter "
        "judge_weight_min_factor judge_weight_max_factor judge_weight_eps sequence_variance_enabled "
        "sequence_variance_scale sequence_variance_alpha sequence_variance_eps "
        "sequence_correlation_enabled sequence_correlation_alpha sequence_correlation_eps "
        "seq_scorer_log_abs_rel_err sequence_metrics_ema_alpha sequence_metrics_eps z_loss_weight "
        "weight_loss_by_mask_ratio uncertainty_factor enable_entropy_penalty max_entropy_penalty "
        "entropy_penalty_start_iter enable_judge_model judge_model_checkpoint",
        "transfer": "init_from_checkpoint freeze_transformer trainable unfreeze_at_iteration unfreeze_lr_multiplier",
        "training": "batch_size gradient_accumulation_steps auto_batch_size num_epochs "
        "epochs_per_job max_iters grad_clip",
        "stability": "on_instability check_every_step max_recoveries recovery_skip recovery_lr_factor "
        "spike_threshold spike_window",
        "optimizer": "optimizer_type learning_rate weight_decay beta1 beta2",
        "schedule": "lr_schedule wsd_decay_iters head_lr_multiplier lr_patience lr_factor decay_lr "
        "warmup_iters warmup_ratio lr_gamma lr_decay_iters min_lr",
        "system": "device dtype cpu_autocast compile cpu_threads backend start_timeout",
    },
    SampleOptions: {
        "model": "init_from out_dir checkpoint quantization device_map",
        "text": "start image num_samples max_new_tokens temperature top_k seed interactive",
        "unmasking": "steps schedule masking_ratios order remask top_p mask_char judge judge_candidates show_steps",
        "labels": "show_probabilities original",
        "system": "device dtype cpu_autocast compile",
    },
}
both_schemas = pytest.mark.parametrize("schema", [Options, SampleOptions])


@pytest.mark.parametrize(("schema", "expected"), [(Options, NANOGPT), (SampleOptions, NANOGPT_SAMPLE)])
def test_nanogpts_options_have_its_names_and_defaults(schema: type[Schema], expected: dict[str, Any]) -> None:
    defaults = schema.defaults()

    assert {name: defaults[name] for name in expected} == expected
    assert all(type(defaults[name]) is type(value) for name, value in expected.items())


@both_schemas
def test_the_default_dtype_is_nanogpts(schema: type[Schema]) -> None:
    has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()

    assert schema.defaults()["dtype"] == ("bfloat16" if has_bfloat16 else "float16")


@both_schemas
def test_no_option_was_lost_or_renamed(schema: type[Schema]) -> None:
    assert {heading: " ".join(names) for heading, names in schema.sections().items()} == OPTION_NAMES[schema]


@both_schemas
def test_every_option_has_a_meaning_and_a_section(schema: type[Schema]) -> None:
    for name, field in schema.model_fields.items():
        assert field.description and len(field.description) > 5, name
        assert isinstance(field.json_schema_extra, dict) and field.json_schema_extra["section"], name


@both_schemas
def test_no_option_is_named_like_a_section(schema: type[Schema]) -> None:
    """In YAML `model:` is a heading, so it cannot be an option too."""
    assert not set(schema.sections()) & set(schema.model_fields)


@both_schemas
def test_every_default_passes_its_own_check(schema: type[Schema]) -> None:
    for name, value in schema.defaults().items():
        fitted = schema.fit(name, value)
        assert fitted == value and type(fitted) is type(value), name


def shown_in_help(schema: type[Schema]) -> dict[str, str]:
    return dict(re.findall(r"^  --(\w+)=(.*?)  \[", schema.help(), re.MULTILINE))


@both_schemas
def test_help_shows_every_default_on_one_line(schema: type[Schema]) -> None:
    assert list(shown_in_help(schema)) == [name for names in schema.sections().values() for name in names]


@both_schemas
def test_help_shows_no_default_that_would_be_refused(schema: type[Schema]) -> None:
    configure(schema, [f"--{name}={text}" for name, text in shown_in_help(schema).items()])


def test_flags_of_choice_options_are_their_choices() -> None:
    for name, field in Options.model_fields.items():
        if name in Options.NOT_YET:
            continue
        for choice in get_args(field.annotation) if get_origin(field.annotation) is Literal else ():
            needed = ["--freeze_transformer=True", "--unfreeze_at_iteration=5"] if choice == "transfer" else []
            assert getattr(configure(Options, [f"--{name}={choice}", *needed]), name) == choice


# rules between options


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n_embd=100", "--n_head=3"], r"n_embd=100 must be divisible by n_head=3: change"),
        (["--n_embd=6", "--n_head=2", "--position_encoding=rotary"], r"rotary.*even head size, got .* = 3: change"),
        (["--init_from=gpt2", "--position_encoding=rotary"], r"init_from=gpt2 .*remove position_encoding=rotary"),
        (["--init_from=gpt2", "--attention_type=bidirectional"], r"remove attention_type=bidirectional"),
    ],
)
def test_conflicting_shapes_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configure(Options, flags)


UNFROZEN_LATE = ["--unfreeze_at_iteration=11", "--max_iters=10"]
STAGES = "--unmasking_stages=[{'type': 'span', 'spans_count': 1, 'val_loss_stale_count': 1}]"
CONFLICTS = [  # conflicting flags, the error message, and flags that resolve the conflict
    (["--training_type=token_classification", "--attention_type=causal"], r"remove attention_type=causal",
     ["--attention_type=auto"]),
    (["--training_type=sequence_scoring", "--attention_type=causal"], r"training_type=sequence_scoring needs bi",
     ["--attention_type=bidirectional"]),
    ([STAGES], r"^unmasking_stages are for masked texts.* set training_type=unmasking",
     ["--training_type=unmasking"]),
    ([STAGES.replace("unmasking", "validation")], r"^validation_stages are for masked texts",
     ["--training_type=unmasking"]),
    (["--composition_config=nothing_like_it"], r"there is no data/char_diffusion/config/nothing_like_it\.py",
     ["--composition_config=complex"]),
    (["--guaranteed_unmasked_min=0.7", "--guaranteed_unmasked_max=0.6"],
     r"guaranteed_unmasked_min=0.7 is greater than guaranteed_unmasked_max=0.6", ["--guaranteed_unmasked_max=0.7"]),
    ([*UNFROZEN_LATE, "--freeze_transformer=True"], r"unfreeze_at_iteration=11 is greater than max_iters=10",
     ["--max_iters=11"]),
    ([*UNFROZEN_LATE, "--trainable=ln_f"], r"unfreeze_at_iteration=11 is greater than max_iters=10", ["--trainable="]),
    ([*UNFROZEN_LATE, "--training_type=sequence_scoring", "--freeze_transformer=None"],
     r"unfreeze_at_iteration=11 is greater than max_iters=10", ["--freeze_transformer=False"]),
    (["--lr_schedule=transfer"], r"lr_schedule=transfer needs a frozen",
     ["--freeze_transformer=True", "--unfreeze_at_iteration=5"]),
    (["--lr_schedule=transfer", "--freeze_transformer=True"], r"set freeze_transformer=True and unfreeze_at_iteration",
     ["--unfreeze_at_iteration=5"]),
    (["--lr_schedule=transfer", "--unfreeze_at_iteration=5"], r"set freeze_transformer=True and unfreeze_at_iteration",
     ["--trainable=ln_f"]),
    (["--judge_weight_modifier_enabled=True", "--judge_start_iter=5", "--judge_max_iter=4"],
     r"judge_max_iter=4 is less than judge_start_iter=5: raise it", ["--judge_max_iter=5"]),
    (["--decay_lr=False", "--lr_schedule=linear"], r"decay_lr=False does not apply to lr_schedule=linear",
     ["--decay_lr=True"]),
    (["--init_from=gpt2", "--init_from_checkpoint=x"], r"init_from=gpt2 and init_from_checkpoint=x: remove one of them",
     ["--init_from=scratch"]),
    (["--training_type=sequence_scoring", "--unmasking_model_checkpoint=x", "--block_size=1"],
     r"block_size=1 has no room for text after the CLS token", ["--block_size=2"]),
    *[([f"--{low}=5", f"--{high}=2"], rf"{low}=5.0 is greater than {high}=2.0: swap the two values", [f"--{high}=5"])
      for low, high in (("mask_ratio_weight_min", "mask_ratio_weight_max"),
                        ("judge_weight_min_factor", "judge_weight_max_factor"))],
]  # fmt: skip


@pytest.mark.parametrize(("flags", "message", "remedy"), CONFLICTS)
def test_conflicts_are_refused_and_the_advice_resolves_them(
    flags: list[str], message: str, remedy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])  # composition_config names a file there
    with pytest.raises(ConfigError, match=message):
        configure(Options, flags)
    configure(Options, [*flags, *remedy])


@pytest.mark.parametrize(("model_mode", "training_type"), [
    ("token_classifier", "token_classification"), ("sequence_scorer", "sequence_scoring"),
    ("language_model", "language_model"),
])  # fmt: skip
def test_model_mode_sets_the_training_type(model_mode: str, training_type: str) -> None:
    assert configure(Options, [f"--model_mode={model_mode}"]).training_type == training_type
    assert Options(model_mode=model_mode).training_type == training_type


@pytest.mark.parametrize(
    "flags",
    [
        ["--n_embd=6", "--n_head=2"],
        ["--n_embd=8", "--n_head=2", "--position_encoding=rotary"],
        ["--init_from=resume", "--n_head=5"],  # the checkpoint has the shape
        ["--init_from=gpt2", "--n_head=5"],
        ["--init_from=resume", "--position_encoding=rotary", "--attention_type=bidirectional"],
    ],
)
def test_shapes_without_conflict_are_accepted(flags: list[str]) -> None:
    configure(Options, flags)


def test_a_core_line_file_may_set_entropy_modifier_verbose(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("entropy_modifier_verbose = True\n")

    assert configure(Options, [str(tmp_path / "x.py"), "--entropy_modifier_verbose=False"]) == Options()
    assert "entropy_modifier_verbose" not in Options.model_fields


def test_check_every_step_is_off_by_default() -> None:
    assert Options().check_every_step is False
    assert configure(Options, ["--check_every_step=True"]).check_every_step is True
    assert "waits for the device" in Options.help(["stability"])


def test_model_args_are_nanogpts_seven_and_others_only_when_changed() -> None:
    seven = ["n_layer", "n_head", "n_embd", "block_size", "bias", "dropout", "vocab_size"]

    assert list(Options().model_args(65)) == seven
    assert Options().model_args(65)["vocab_size"] == 65 and Options().model_args(None)["vocab_size"] is None
    foreign = {"position_encoding": "rotary", "attention_type": "bidirectional", "activation": "gelu_tanh"}
    changed = Options(**foreign, attention="manual").model_args(65)
    assert {name: changed[name] for name in set(changed) - set(seven)} == foreign
