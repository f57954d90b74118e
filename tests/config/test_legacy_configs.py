"""Presets and base files of the train_run and core lines: their values, and user files that depend on them."""

from pathlib import Path
from typing import Any

import pytest

from config.not_supported import DETAILS, NOT_SUPPORTED
from config.options import Options
from configurator import configure
from core.errors import ConfigError
from data.stages import check_stages, create_stage_objects

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
BASE = "config/base_train_run.py"
TRAIN_RUN = sorted(path.stem for path in (CONFIG / "shkspr_char_diff").glob("*.py") if path.stem != "stages")
CORE_LINE = (
    "train_char_diffusion", "train_char_diffusion_modifiers", "train_char_diffusion_modifiers2",
    "train_char_diffusion_no_modifiers", "train_char_diffusion_judge_weight", "train_char_diffusion_judge_weight2",
    "train_char_diffusion_judge_weight_a40", "train_char_diffusion_sticky_rounds", "train_shakespeare_char_core_line",
    "train_mickiewicz_char", "sequence_scorer_complex", "sequence_scorer_lines", "sequence_scorer_lines_a40",
    "sequence_scorer_simple", "sequence_scorer_config", "token_classifier_config",
)  # fmt: skip

# values specific to each file of the train_run line; batch is (sequences, micro-batches)
TRAIN_RUN_VALUES: dict[str, dict[str, Any]] = {
    "all_in_parallel": dict(batch=(16, 16), max_iters=15000, learning_rate=5e-4, min_lr=1e-4, stages=14),
    "different_set": dict(batch=(64, 4), init_from="resume", weight_decay=1e-5, dropout=0.0, decay_lr=True, stages=4),
    "easy_first": dict(batch=(16, 1), max_iters=5000, lr_decay_iters=50000, learning_rate=1e-3, stages=11),
    "eval": dict(batch=(16, 1), init_from="resume", eval_only=True, learning_rate=1e-3, stages=14),
    "moderate_first": dict(batch=(16, 1), max_iters=50000, learning_rate=5e-4, decay_lr=False, stages=14),
    "moderate_more_steps": dict(batch=(128, 8), max_iters=50000, learning_rate=5e-4, stages=14),
    "optimal": dict(batch=(16, 2), max_iters=5000, learning_rate=3e-4, warmup_iters=600, dropout=0.01, stages=14),
    "optimal2": dict(batch=(16, 16), weight_decay=1e-2, dropout=0.2, enable_entropy_penalty=True, stages=14),
    "optimal3": dict(batch=(16, 16), enable_entropy_penalty=False, weight_loss_by_mask_ratio=False, stages=14),
    "optimal4": dict(batch=(192, 12), max_iters=8000, lr_decay_iters=8000, min_lr=3e-5, grad_clip=0.0, stages=8),
    "optimal5": dict(
        batch=(16, 16), uncertainty_factor=0.1, weight_loss_by_mask_ratio=True, learning_rate=2e-5, min_lr=2e-6,
        max_iters=8000, warmup_iters=2000, lr_decay_iters=15000, weight_decay=2e-2, dropout=0.2, grad_clip=0.0,
        max_entropy_penalty=3.0, entropy_penalty_start_iter=2500, enable_entropy_penalty=False, stages=8,
    ),
    "optimal5_entropy": dict(batch=(16, 16), enable_entropy_penalty=True, max_entropy_penalty=3.0, stages=8),
    "optimal5_judge": dict(
        batch=(16, 16), enable_judge_model=True, judge_model_checkpoint="out/2000_5_scorer.pt", learning_rate=1e-3,
        unfreeze_at_iteration=80, stages=10,
    ),
    "optimal5_scorer": dict(
        batch=(16, 16), training_type="sequence_scoring", unfreeze_at_iteration=300, weight_loss_by_mask_ratio=False,
        init_from_checkpoint="out/optimal5_bert_8000.pt", freezes=True, stages=8,
    ),
    "optimal6": dict(
        batch=(16, 12), max_iters=10000, learning_rate=1e-3, min_lr=3e-5, uncertainty_factor=0.1, wandb_log=False,
        weight_loss_by_mask_ratio=False, enable_entropy_penalty=False, lr_decay_iters=8000, grad_clip=0.0, stages=8,
    ),
    "optimal7": dict(
        batch=(16, 12), max_iters=10000, uncertainty_factor=0.03, wandb_log=True, weight_loss_by_mask_ratio=True,
        stages=8,
    ),
    "optimal6_scorer": dict(batch=(16, 16), training_type="sequence_scoring", freezes=True, stages=9),
    "super_hard_first": dict(batch=(16, 1), max_iters=5000, learning_rate=1e-3, decay_lr=False, stages=12),
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_repository_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the repository root."""
    monkeypatch.chdir(ROOT)


def load(*argv: str | Path) -> Options:
    return configure(Options, [str(argument) for argument in argv])


def check(options: Options, **expected: Any) -> None:
    batch = options.batch_size, options.gradient_accumulation_steps
    values = {name: getattr(options, name, None) for name in expected}
    values |= {"batch": batch, "stages": len(options.unmasking_stages or [])}
    assert {name: values[name] for name in expected} == expected


# base files


def test_base_train_run_has_the_defaults_of_the_train_run_line() -> None:
    check(
        load("config/base_train_run.py"), training_type="unmasking", init_from="resume", dataset="shakespeare_char",
        n_layer=6, n_head=6, n_embd=384, block_size=1024, dropout=0.01, bias=False, attention_type="bidirectional",
        position_encoding="rotary", wandb_log=True, wandb_project="diffusion", eval_interval=200, eval_iters=20,
        wandb_log_interval=1,
        log_interval=20, batch=(16, 1), stages=0, use_all_stages_for_training=False, max_entropy_penalty=0.5,
        entropy_penalty_start_iter=6000, uncertainty_factor=0.0, unfreeze_at_iteration=80, unfreeze_lr_multiplier=1.0,
        learning_rate=1e-3, max_iters=50000, warmup_iters=2000, lr_decay_iters=41000, min_lr=1e-4, beta1=0.9,
        beta2=0.99, weight_decay=1e-3, grad_clip=1.0, dtype="float16", compile=False,
    )  # fmt: skip


def test_few_core_line_defaults_differ_from_nanogpts() -> None:
    options = load("config/base_core_line.py")

    assert options.changed(*Options.model_fields) == {
        "wandb_run_name": "run", "wandb_log_interval": 1, "gradient_accumulation_steps": 1, "fill": "sample",
    }  # fmt: skip


def test_the_newest_core_line_fills_masked_positions() -> None:
    check(
        load("config/base_core_line_newest.py"), training_type="unmasking", attention_type="bidirectional",
        position_encoding="rotary", enable_line_aligned_sequences=True, batch=(1, 1), n_layer=12, learning_rate=6e-4,
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "frozen"), [("unmasking", False), ("sequence_scoring", True)])
def test_after_the_train_run_base_only_a_scorer_starts_frozen(tmp_path: Path, kind: str, frozen: bool) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(f"training_type = '{kind}'\nunmasking_model_checkpoint = 'filler'\n")

    assert load("config/base_train_run.py", mine).freezes is frozen
    assert not load("config/base_train_run.py", mine, "--unfreeze_at_iteration=None").freezes


def test_a_file_overrides_the_base_before_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("learning_rate = 5e-4\nuse_rope = False\nunmasking_stages = [{'type': 'span', 'spans_count': 3}]\n")

    check(
        load("config/base_train_run.py", mine), learning_rate=5e-4, position_encoding="absolute", stages=1, n_embd=384
    )


def test_a_base_files_unfreezing_does_not_refuse_a_short_run(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("training_type = 'sequence_scoring'\nunmasking_model_checkpoint = 'filler'\nmax_iters = 50\n")

    options = load("config/base_train_run.py", mine)

    check(options, freezes=True, unfreeze_at_iteration=80, max_iters=50)
    for own in ("--unfreeze_at_iteration=300", "--unfreeze_at_iteration=80"):
        with pytest.raises(ConfigError, match=r"^unfreeze_at_iteration=\d+ is greater than max_iters=50: lower it"):
            load("config/base_train_run.py", mine, own)


# as users of the line have them, early and late
WITHOUT_BASE = {
    "easy_first": "training_type = 'unmasking'\nuse_paragraph_boundaries = False\nmax_iters = 5000",
    "optimal5": (
        "batch_size = 16\ngradient_accumulation_steps = 16\ntraining_type = 'unmasking'\nuncertainty_factor = 0.1\n"
        "weight_loss_by_mask_ratio = True\nenable_entropy_penalty = False\nmax_entropy_penalty = 3\n"
        "entropy_penalty_start_iter = 2500\n"
        "unmasking_stages = [dict(type='span', spans_count=2, val_loss_stale_count=1)]"
    ),
    "super_hard_first": (
        "training_type = 'unmasking'\nunmasking_stages = [dict(type='span', spans_count=2, val_loss_stale_count=1)]\n"
        "validation_stages = unmasking_stages\nlearning_rate = 1e-3\ndecay_lr = False"
    ),
    "resumed": "training_type = 'unmasking'\ninit_from = 'resume'\nckpt_filename = 'a.pt'\nstart_iter_num = 8000",
}
LINE = "mine.py looks like a config of the train_run line, whose defaults are not the ones here: put {} before it\n"


@pytest.mark.parametrize("name", WITHOUT_BASE)
@pytest.mark.parametrize(("base", "says_so"), [("none", True), ("before", False), ("after", True)])
def test_a_train_run_config_without_its_base_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, base: str, says_so: bool
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(WITHOUT_BASE[name])
    given = {"none": [mine], "before": [BASE, mine], "after": [mine, BASE]}[base]

    load(*given, "--init_from=scratch", "--training_type=unmasking")

    assert capsys.readouterr().err.endswith(LINE.format(BASE)) is says_so


OURS = ("uncertainty_factor = 0.1\nn_layer = 4", "training_type = 'unmasking'\nuncertainty_factor = 0.1\nn_embd = 96")
PLAIN = ("uncertainty_factor = 0.1", "training_type = 'unmasking'\nmask_probability = 0.2")


@pytest.mark.parametrize("text", [*OURS, *PLAIN])
def test_a_config_of_ones_own_does_not_look_like_train_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "mine.py").write_text(text)
    load(tmp_path / "mine.py")

    assert capsys.readouterr().err == ""


RECIPES = tuple(path.stem for path in sorted(CONFIG.glob("recipe_*.py")))


@pytest.mark.parametrize("name", [*(f"shkspr_char_diff/{name}" for name in TRAIN_RUN), *CORE_LINE, *RECIPES])
def test_no_preset_looks_like_a_config_without_its_base(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    load(f"config/{name}.py")

    assert "looks like" not in capsys.readouterr().err


def test_the_core_lines_oldest_base_has_40_micro_batches(tmp_path: Path) -> None:
    """The values of its version of 12 September 2025: those of the next one, but for two."""
    oldest, next_one = (load(f"config/base_core_line{name}.py") for name in ("_oldest", ""))

    assert oldest.changed(*Options.model_fields) == {"wandb_run_name": "run", "fill": "sample"}
    differences = {name for name in Options.model_fields if getattr(oldest, name) != getattr(next_one, name)}
    assert differences == {"gradient_accumulation_steps", "wandb_log_interval"}


# the configs of that version: what each sets, as far as it decides the size of an update
OLDEST_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "eval_gpt2": (
        "batch_size = 8\neval_iters = 500\neval_only = True\nwandb_log = False\ninit_from = 'gpt2'",
        dict(batch=(8, 40), eval_iters=500, eval_only=True, n_layer=12, block_size=1024),
    ),
    "finetune_shakespeare": (
        "dataset = 'shakespeare'\ninit_from = 'gpt2-xl'\nalways_save_checkpoint = False\nbatch_size = 1\n"
        "gradient_accumulation_steps = 32\nmax_iters = 20\nlearning_rate = 3e-5\ndecay_lr = False",
        dict(batch=(1, 32), max_iters=20, learning_rate=3e-5, decay_lr=False),
    ),
    "train_gpt2": (
        "wandb_log = True\nbatch_size = 12\nblock_size = 1024\ngradient_accumulation_steps = 5 * 8\n"
        "max_iters = 600000\nlr_decay_iters = 600000\nweight_decay = 1e-1",
        dict(batch=(12, 40), max_iters=600000, wandb_log=True, wandb_log_interval=0),
    ),
    "train_char_diffusion": (
        "out_dir = 'out-char-diffusion'\ndataset = 'char_diffusion'\nbatch_size = 32\n"
        "gradient_accumulation_steps = 4\nmax_iters = 10000\nattention_type = 'bidirectional'\n"
        "position_encoding = 'rotary'\nbatches_per_file = 100\nmax_backlog_files = 3\nsleep_seconds = 1.0",
        dict(batch=(32, 4), max_iters=10000, attention_type="bidirectional", position_encoding="rotary"),
    ),
    "train_char_diffusion_modifiers": (
        "batch_size = 32\ngradient_accumulation_steps = 1\nloss_modifiers_enabled = True\n"
        "entropy_modifier_enabled = True\nentropy_modifier_weight = 0.3\nentropy_modifier_threshold = 0.1\n"
        "target_smoothing_enabled = True\ntarget_smoothing_special_tokens = '65'\nmask_ratio_weight_enabled = True",
        dict(batch=(32, 1), entropy_modifier_weight=0.3, target_smoothing_factor=0.1, mask_ratio_weight_power=0.5),
    ),
    "train_mickiewicz_char": (
        "dataset = 'mickiewicz_char'\nbatch_size = 8\ngradient_accumulation_steps = 16\nweight_decay = 1e-2",
        dict(batch=(8, 16), weight_decay=1e-2, learning_rate=6e-4),
    ),
    "train_shakespeare_char": (
        "block_size = 1024\nbatch_size = 16\ngradient_accumulation_steps = 4\nlearning_rate = 1e-3\n"
        "max_iters = 5000\ndropout = 0.2",
        dict(batch=(16, 4), block_size=1024, learning_rate=1e-3, max_iters=5000, attention_type="auto", dropout=0.2),
    ),
    "without an accumulation of its own": ("batch_size = 4", dict(batch=(4, 40), learning_rate=6e-4, fill="sample")),
}


@pytest.mark.parametrize("name", OLDEST_CONFIGS)
def test_configs_of_the_core_lines_oldest_version(tmp_path: Path, name: str) -> None:
    text, expected = OLDEST_CONFIGS[name]
    (tmp_path / "mine.py").write_text(text)

    check(load("config/base_core_line_oldest.py", tmp_path / "mine.py"), **expected)


# presets


def test_every_config_of_the_train_run_line_exists() -> None:
    assert set(TRAIN_RUN) == set(TRAIN_RUN_VALUES)


@pytest.mark.parametrize("name", TRAIN_RUN)
def test_configs_of_the_train_run_line_have_their_legacy_values(name: str) -> None:
    options = load(f"config/shkspr_char_diff/{name}.py")

    check(options, **TRAIN_RUN_VALUES[name])
    check(options, n_layer=6, n_embd=384, block_size=1024, position_encoding="rotary", beta2=0.99)  # from the base
    assert options.is_bidirectional and len(options.validation_stages or []) == 14


@pytest.mark.parametrize("name", [*(f"shkspr_char_diff/{name}" for name in TRAIN_RUN), *CORE_LINE])
def test_stages_of_every_preset_fit_its_texts(name: str) -> None:
    options = load(f"config/{name}.py")

    for where in ("unmasking_stages", "validation_stages"):
        check_stages(create_stage_objects(getattr(options, where), where), options.block_size - 1)


def test_two_configs_differ_in_the_order_of_stages() -> None:
    easy, hard = (load(f"config/shkspr_char_diff/{name}_first.py") for name in ("easy", "super_hard"))

    ratios = [
        [stage.get("target_masked_ratio", stage.get("max_masked_ratio")) for stage in options.unmasking_stages or []]
        for options in (easy, hard)
    ]
    assert ratios[0] == [0.2, 0.4, 0.2, 0.4, 0.4, 0.6, 0.55, 0.7, 0.8, 0.8, 0.9]
    assert ratios[1] == [0.9, 0.8, 0.5, 0.6, 0.6, 0.2, 0.2, 0.4, 0.4, 0.55, 0.7, 0.8]


def test_train_char_diffusion_has_its_legacy_values() -> None:
    options = load("config/train_char_diffusion.py")

    check(
        options, training_type="unmasking", out_dir="out-char-diffusion", dataset="char_diffusion", batch=(32, 4),
        eval_interval=250, eval_iters=50, log_interval=10, always_save_checkpoint=False, block_size=1024,
        learning_rate=5e-4, min_lr=5e-5, max_iters=10000, warmup_iters=500, n_layer=6, n_embd=384, dropout=0.1,
        attention_type="bidirectional", position_encoding="rotary", dtype="float16", use_all_stages_for_training=True,
        stages=9, loss_modifiers_enabled=False,
    )  # fmt: skip
    assert len(options.validation_stages or []) == 14


def test_train_char_diffusion_variants_have_their_legacy_values() -> None:
    first, second = (load(f"config/train_char_diffusion_modifiers{number}.py") for number in ("", "2"))

    check(
        first, batch=(32, 1), wandb_log=True, loss_modifiers_enabled=True, entropy_modifier_enabled=True,
        entropy_modifier_weight=0.3, entropy_modifier_threshold=0.1, target_smoothing_enabled=True,
        target_smoothing_factor=0.1, target_smoothing_special_tokens="65", mask_ratio_weight_enabled=True,
        mask_ratio_weight_power=0.5, stages=9,
    )  # fmt: skip
    check(second, entropy_modifier_enabled=False, mask_ratio_weight_enabled=True, loss_modifiers_enabled=True)
    check(load("config/train_char_diffusion_no_modifiers.py"), batch=(128, 2), max_iters=6000, compile=True,
        loss_modifiers_enabled=False, training_type="unmasking", enable_line_aligned_sequences=True)  # fmt: skip
    check(load("config/train_char_diffusion_judge_weight2.py"), judge_weight_modifier_enabled=True,
        judge_weight_exponent=2.0, judge_start_iter=2000, judge_max_iter=5000, judge_weight_min_factor=0.0333,
        judge_weight_max_factor=30.0)  # fmt: skip
    disabled, large = (load(f"config/train_char_diffusion_judge_weight{name}.py") for name in ("", "_a40"))
    check(disabled, batch=(16, 1), judge_weight_modifier_enabled=False, target_smoothing_enabled=True,
        mask_ratio_weight_enabled=True, entropy_modifier_enabled=False, judge_max_iter=1)  # fmt: skip
    check(large, batch=(64, 2), judge_weight_modifier_enabled=True, judge_start_iter=2000, judge_max_iter=5000)
    check(load("config/train_char_diffusion_sticky_rounds.py"), batch=(48, 1), dataset="char_diffusion_sticky_rounds",
        training_type="unmasking", stages=0, entropy_modifier_enabled=True, out_dir="out-char-diffusion-sticky-rounds",
        enable_line_aligned_sequences=True)  # fmt: skip


def test_scorers_and_classifiers_of_the_core_line_have_legacy_values() -> None:
    check(load("config/sequence_scorer_complex.py"), training_type="sequence_scoring", batch=(4, 2), learning_rate=1e-5,
        min_lr=1e-5, freezes=True, unfreeze_at_iteration=500, sequence_variance_scale=5.0, sequence_variance_alpha=1.5,
        sequence_correlation_alpha=4.0, sequence_correlation_enabled=True, cls_token_id=66, stages=9)  # fmt: skip
    check(load("config/sequence_scorer_lines.py"), batch=(4, 32), stages=10, freezes=False, score_transform=True)
    check(load("config/sequence_scorer_lines_a40.py"), batch=(64, 2), stages=10, freezes=False)
    check(load("config/sequence_scorer_simple.py"), batch=(16, 1), block_size=256, max_iters=8000, stages=0)
    check(load("config/sequence_scorer_config.py"), freezes=True, unfreeze_at_iteration=3000, learning_rate=1e-4)
    check(load("config/token_classifier_config.py"), training_type="token_classification", freezes=True,
        unfreeze_at_iteration=5000, batch=(16, 1), block_size=512, learning_rate=5e-5, max_iters=20000,
        entropy_modifier_enabled=True, target_smoothing_enabled=True)  # fmt: skip


def test_language_models_of_the_core_line_have_their_legacy_values() -> None:
    check(load("config/train_shakespeare_char_core_line.py"), training_type="language_model", block_size=1024,
        batch=(16, 4), learning_rate=1e-3, max_iters=5000, attention_type="causal", dropout=0.2)  # fmt: skip
    check(load("config/train_mickiewicz_char.py"), dataset="mickiewicz_char", batch=(8, 16), weight_decay=1e-2)


# compositions

COPIES_A_COMPOSITION = """
composition_config = {name!r}
import importlib.util
spec = importlib.util.spec_from_file_location("mixture", f"data/char_diffusion/config/{{composition_config}}.py")
mixture = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mixture)
for attribute in dir(mixture):
    if not attribute.startswith("_"):
        globals()[attribute] = getattr(mixture, attribute)
training_type = "MLM"
"""


@pytest.mark.parametrize(("name", "stages", "last"), [("complex", 9, "sticky"), ("span_and_lines", 10, "line")])
def test_a_users_file_may_copy_a_composition_attribute_by_attribute(
    tmp_path: Path, name: str, stages: int, last: str
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(COPIES_A_COMPOSITION.format(name=name))

    options = load("config/base_core_line.py", mine)

    check(options, training_type="unmasking", use_all_stages_for_training=True, stages=stages)
    assert options.unmasking_stages and options.unmasking_stages[-1]["type"] == last
    assert options.unmasking_stages[3] == {"type": "span", "spans_count": 20, "val_loss_stale_count": 10}
    assert len(options.validation_stages or []) == 14


def test_a_missing_composition_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("training_type = 'unmasking'\nfrom data.char_diffusion.config.simple import *\n")

    with pytest.raises(ConfigError, match=r"mine\.py:2.*data\.char_diffusion\.config\.simple"):
        load(mine)


# unsupported options


def test_an_unsupported_switch_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("add_critic_head = True\ncritic_alpha = 0.5\n")

    with pytest.raises(ConfigError, match="^add_critic_head=True is not supported: coreGPT has no critic .*False$"):
        load(tmp_path / "mine.py")
    with pytest.raises(ConfigError, match="^use_guidance=True is not supported"):
        load("--use_guidance=True")


@pytest.mark.parametrize("off", ["False", "0", "None", "''"])
def test_unsupported_switches_that_are_off_and_settings_are_ignored(tmp_path: Path, off: str) -> None:
    lines = [f"{name} = {off}" for name in NOT_SUPPORTED] + [f"{name} = 1" for name in DETAILS]
    (tmp_path / "mine.py").write_text("\n".join(lines))

    assert load(tmp_path / "mine.py", "--critic_alpha=0.3", "--start_iter_num=5") == Options()


def test_settings_of_unsupported_features_name_their_switch() -> None:
    assert set(DETAILS.values()) <= set(NOT_SUPPORTED)
    assert not (set(DETAILS) | set(NOT_SUPPORTED)) & set(Options.model_fields)


def test_stages_without_a_training_type_are_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "unmasking_stages = [{'type': 'span', 'spans_count': 2, 'val_loss_stale_count': 1}]"
    )

    with pytest.raises(ConfigError, match="set training_type=unmasking; put config/base_train_run.py before"):
        load(tmp_path / "mine.py")
    assert load("config/base_train_run.py", tmp_path / "mine.py").training_type == "unmasking"


def test_model_mode_sets_the_training_type_of_classifiers_and_scorers() -> None:
    assert load("--training_type=MLM", "--model_mode=language_model").training_type == "unmasking"
    assert load("--model_mode=token_classifier").training_type == "token_classification"
    with pytest.raises(ConfigError, match="model_mode=token_classifier and training_type=sequence_scoring contradict"):
        load("--training_type=SEQUENCE_SCORING", "--model_mode=token_classifier")
    assert load("--model_mode=sequence_scorer").training_type == "sequence_scoring"
    assert load("--model_mode=sequence_scoring").training_type == "sequence_scoring"


@pytest.mark.parametrize("base", ["base_core_line", "base_core_line_newest"])
def test_a_file_with_only_model_mode_works_after_either_base(tmp_path: Path, base: str) -> None:
    (tmp_path / "mine.py").write_text("model_mode = 'sequence_scorer'")
    options = load(f"config/{base}.py", tmp_path / "mine.py")

    check(options, training_type="sequence_scoring", score_transform=base.endswith("newest"))
