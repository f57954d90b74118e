"""Loss modifiers made from options: each option reaches its modifier, and the order of modifiers is fixed."""

import math
from typing import Any

import pytest
import torch

import loss_modifiers as lm
from config.options import Options
from core.errors import ConfigError
from wiring.modifiers import create_loss_modifier_pipeline

CORE_LINE = {  # the option that enables a modifier of the core line, and the modifier's class
    "target_smoothing_enabled": "TargetSmoothingModifier",
    "entropy_modifier_enabled": "EntropyModifier",
    "mask_ratio_weight_enabled": "MaskRatioWeightModifier",
    "judge_weight_modifier_enabled": "SequenceScoringJudgeWeightModifier",
    "sequence_variance_enabled": "SequenceScorerVarianceModifier",
    "sequence_correlation_enabled": "SequenceScorerCorrelationModifier",
}
TRAIN_RUN_LINE: dict[str, tuple[Any, str]] = {
    "z_loss_weight": (1e-4, "ZLossModifier"),
    "weight_loss_by_mask_ratio": (True, "MaskRatioWeightModifier"),
    "uncertainty_factor": (0.1, "LabelSmoothingModifier"),
    "enable_entropy_penalty": (True, "EntropyPenaltyModifier"),
    "enable_judge_model": (True, "JudgeFactorModifier"),
}
TYPES = ("language_model", "unmasking", "token_classification", "sequence_scoring")
PATHS = {"judge_weight_checkpoint": "one", "judge_model_checkpoint": "two"}


def load_judge(path: str, transformed: bool) -> lm.Judge:
    return lm.Judge(lambda ids: (torch.full((len(ids),), 0.5), None), 22, {"one": 8, "two": 9}[path], transformed)


def pipeline(training_type: str = "unmasking", rank: int = 0, **options: Any) -> lm.LossModifierPipeline:
    if training_type == "sequence_scoring":
        options["unmasking_model_checkpoint"] = "out-unmasking"
    return create_loss_modifier_pipeline(
        Options(training_type=training_type, **options), special=[17, 18], device=torch.device("cpu"), rank=rank,
        load_judge=load_judge,
    )  # fmt: skip


def training_type(enabled: str) -> dict[str, Any]:
    """Return the options of a run to which the modifier applies, without the metrics collector of a scorer."""
    scoring = enabled.startswith("sequence_")
    return {"training_type": "sequence_scoring", "seq_scorer_log_abs_rel_err": False} if scoring else {}


def only(name: str, **options: Any) -> Any:
    (match,) = (modifier for modifier in pipeline(**options).modifiers if type(modifier).__name__ == name)
    return match


# which modifiers are enabled


@pytest.mark.parametrize("training_type", TYPES)
def test_by_default_there_are_no_modifiers(training_type: str) -> None:
    assert pipeline(training_type).is_empty()


@pytest.mark.parametrize("training_type", TYPES[:3])
def test_loss_modifiers_enabled_alone_adds_no_modifier(training_type: str) -> None:
    """Without modifiers, the model's own fused loss is used."""
    assert pipeline(training_type, loss_modifiers_enabled=True).is_empty()


def test_a_scorer_has_the_metrics_collector_unless_it_is_switched_off() -> None:
    names = pipeline("sequence_scoring", loss_modifiers_enabled=True).get_enabled_modifier_names()
    unwanted = pipeline("sequence_scoring", loss_modifiers_enabled=True, seq_scorer_log_abs_rel_err=False)

    assert names == ["MetricsCollectorModifier"] and unwanted.is_empty()


@pytest.mark.parametrize(("option", "name"), CORE_LINE.items())
def test_a_modifier_of_the_core_line_needs_two_options(option: str, name: str) -> None:
    options = {**PATHS, **training_type(option), option: True}

    assert pipeline(**options).is_empty()
    assert pipeline(**options, loss_modifiers_enabled=True).get_enabled_modifier_names() == [name]


@pytest.mark.parametrize("option", TRAIN_RUN_LINE)
def test_a_modifier_of_the_train_run_line_needs_only_its_own_option(option: str) -> None:
    value, name = TRAIN_RUN_LINE[option]

    assert pipeline(**{option: value}, **PATHS).get_enabled_modifier_names() == [name]


def test_modifiers_are_applied_in_a_fixed_order() -> None:
    everything: dict[str, Any] = dict.fromkeys(CORE_LINE, True)
    everything |= {name: value for name, (value, _) in TRAIN_RUN_LINE.items() if name != "weight_loss_by_mask_ratio"}

    unmasking, scoring = (
        pipeline(kind, loss_modifiers_enabled=True, **everything, **PATHS).get_enabled_modifier_names()
        for kind in ("unmasking", "sequence_scoring")
    )

    first, judges, last = (
        ["TargetSmoothingModifier", "LabelSmoothingModifier", "ZLossModifier", "EntropyModifier",
         "EntropyPenaltyModifier", "MaskRatioWeightModifier"],
        ["SequenceScoringJudgeWeightModifier", "JudgeFactorModifier"],
        ["SequenceScorerVarianceModifier", "SequenceScorerCorrelationModifier"],
    )  # fmt: skip
    assert unmasking == [*first, *judges]
    assert scoring == [*last, "MetricsCollectorModifier"]


def test_a_judge_is_not_loaded_for_other_training_types(caplog: pytest.LogCaptureFixture) -> None:
    judging = {"enable_judge_model": True, "loss_modifiers_enabled": True, "judge_weight_modifier_enabled": True}

    assert pipeline("token_classification", **judging).is_empty()  # no checkpoint is given, and none is needed
    assert caplog.messages == [
        f"{name}: not for training_type=token_classification, without effect"
        for name in ("JudgeFactorModifier", "SequenceScoringJudgeWeightModifier")
    ]


def test_a_modifier_that_starts_after_the_last_iteration_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    pipeline(enable_entropy_penalty=True, entropy_penalty_start_iter=9, max_iters=10)
    assert caplog.messages == []
    pipeline(enable_entropy_penalty=True, entropy_penalty_start_iter=10, max_iters=10)
    judging = {"loss_modifiers_enabled": True, "judge_weight_modifier_enabled": True, "judge_weight_checkpoint": "one"}
    pipeline(**judging, judge_start_iter=11, judge_max_iter=12, max_iters=10)
    assert caplog.messages == [
        "entropy_penalty_start_iter=10: without effect, as max_iters=10",
        "judge_start_iter=11: without effect, as max_iters=10",
    ]


# values of options

OPTION_CASES = [  # option, value, option that enables the modifier, attribute
    ("target_smoothing_factor", 0.25, "target_smoothing_enabled", "factor"),
    ("target_smoothing_exclude_padding", False, "target_smoothing_enabled", "exclude_padding"),
    ("target_smoothing_padding_token", 3, "target_smoothing_enabled", "padding_token"),
    ("entropy_modifier_weight", 0.75, "entropy_modifier_enabled", "weight"),
    ("entropy_modifier_threshold", 0.125, "entropy_modifier_enabled", "threshold"),
    ("entropy_modifier_eps", 1e-5, "entropy_modifier_enabled", "eps"),
    ("mask_ratio_weight_power", 0.75, "mask_ratio_weight_enabled", "power"),
    ("mask_ratio_weight_min", 0.25, "mask_ratio_weight_enabled", "min_weight"),
    ("mask_ratio_weight_max", 5.0, "mask_ratio_weight_enabled", "max_weight"),
    ("mask_ratio_weight_eps", 1e-5, "mask_ratio_weight_enabled", "eps"),
    ("judge_weight_exponent", 2.0, "judge_weight_modifier_enabled", "exponent"),
    ("judge_start_iter", 5, "judge_weight_modifier_enabled", "start_iter"),
    ("judge_max_iter", 70, "judge_weight_modifier_enabled", "max_iter"),
    ("judge_weight_eps", 1e-4, "judge_weight_modifier_enabled", "eps"),
    ("sequence_variance_scale", 3.0, "sequence_variance_enabled", "scale"),
    ("sequence_variance_alpha", 2.5, "sequence_variance_enabled", "alpha"),
    ("sequence_variance_eps", 1e-5, "sequence_variance_enabled", "eps"),
    ("sequence_correlation_alpha", 3.0, "sequence_correlation_enabled", "alpha"),
    ("sequence_correlation_eps", 1e-5, "sequence_correlation_enabled", "eps"),
]


@pytest.mark.parametrize(("option", "value", "enabled", "attribute"), OPTION_CASES)
def test_options_of_the_core_line_reach_their_modifier(option: str, value: Any, enabled: str, attribute: str) -> None:
    settings = {"judge_max_iter": 70, **PATHS, "loss_modifiers_enabled": True, **training_type(enabled), enabled: True}
    default = getattr(only(CORE_LINE[enabled], **settings), attribute)

    assert getattr(only(CORE_LINE[enabled], **{**settings, option: value}), attribute) == value
    assert option == "judge_max_iter" or default != value  # the default differs


def test_the_limits_of_the_judge_weight_reach_the_modifier() -> None:
    modifier = only(
        "SequenceScoringJudgeWeightModifier", loss_modifiers_enabled=True, judge_weight_modifier_enabled=True,
        judge_weight_min_factor=0.5, judge_weight_max_factor=2.0, **PATHS,
    )  # fmt: skip

    assert modifier.limits == (0.5, 2.0)


def test_the_options_of_the_collector_reach_the_modifier() -> None:
    modifier = only(
        "MetricsCollectorModifier", training_type="sequence_scoring", loss_modifiers_enabled=True,
        sequence_metrics_ema_alpha=0.25, sequence_metrics_eps=1e-3,
    )  # fmt: skip
    modifier.modify(*(torch.tensor([value]) for value in (0.0, 0.5, 1.0, True)))
    modifier.modify(*(torch.tensor([value]) for value in (0.0, 1.0, 1.0, True)))

    assert modifier.metrics()["aare_ema"].item() == pytest.approx(0.5 * 0.75)
    assert modifier.eps == 1e-3


def test_options_of_the_train_run_line_reach_their_modifier() -> None:
    assert only("ZLossModifier", z_loss_weight=0.5).weight == 0.5
    smoothing = only("LabelSmoothingModifier", uncertainty_factor=0.3)
    assert (smoothing.factor, list(smoothing.special_tokens)) == (0.3, [17, 18])
    penalty = only(
        "EntropyPenaltyModifier", enable_entropy_penalty=True, max_entropy_penalty=0.75, entropy_penalty_start_iter=7,
        max_iters=50,
    )  # fmt: skip
    assert (penalty.max_penalty, penalty.start_iter, penalty.max_iters) == (0.75, 7, 50)
    ratio = only("MaskRatioWeightModifier", weight_loss_by_mask_ratio=True)
    assert (ratio.power, ratio.min_weight, ratio.max_weight) == (0.5, 0.0, math.inf)


def test_each_modifier_loads_the_judge_of_its_own_checkpoint() -> None:
    both = {**PATHS, "loss_modifiers_enabled": True, "judge_weight_modifier_enabled": True, "enable_judge_model": True}
    weight, factor = (only(f"{name}Modifier", **both) for name in ("SequenceScoringJudgeWeight", "JudgeFactor"))

    assert (weight.judge.block_size, factor.judge.block_size) == (8, 9)
    assert (weight.judge.transformed, factor.judge.transformed) == (True, False)  # the score scale of each line


def test_the_generator_of_the_judge_weight_is_seeded_by_seed_and_rank() -> None:
    settings = {**PATHS, "loss_modifiers_enabled": True, "judge_weight_modifier_enabled": True}
    name = "SequenceScoringJudgeWeightModifier"

    seeds = [only(name, **settings, rank=rank, seed=5).generator.initial_seed() for rank in (0, 1)]

    assert seeds == [5, 6]


@pytest.mark.parametrize(
    ("tokens", "ids"), [([3, 5], (3, 5)), ("3,5", (3, 5)), ("[3, 5]", (3, 5)), ("", ()), ([], ()), ("3", (3,))]
)
def test_special_tokens_are_a_list_or_a_text_with_commas(tokens: Any, ids: tuple[int, ...]) -> None:
    settings = {"loss_modifiers_enabled": True, "target_smoothing_enabled": True}

    modifier = only("TargetSmoothingModifier", **settings, target_smoothing_special_tokens=tokens)

    assert tuple(modifier.special_tokens) == ids


def test_every_option_of_the_section_has_a_test() -> None:
    """A new option needs a test that it reaches its modifier."""
    tested = {option for option, *_ in OPTION_CASES} | set(CORE_LINE) | set(TRAIN_RUN_LINE) | set(PATHS)
    tested |= {
        "loss_modifiers_enabled", "target_smoothing_special_tokens", "judge_weight_min_factor",
        "judge_weight_max_factor", "seq_scorer_log_abs_rel_err", "sequence_metrics_ema_alpha", "sequence_metrics_eps",
        "max_entropy_penalty", "entropy_penalty_start_iter",
    }  # fmt: skip

    assert set(Options.sections()["modifiers"]) == tested


# errors


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"enable_judge_model": True}, "judge_model_checkpoint"),
        ({"loss_modifiers_enabled": True, "judge_weight_modifier_enabled": True}, "judge_weight_checkpoint"),
    ],
)
def test_a_judge_needs_a_checkpoint(options: dict[str, Any], missing: str) -> None:
    with pytest.raises(ConfigError, match=f"^a judge is needed: set {missing} to the folder of a sequence_scoring"):
        pipeline(**options)


def test_special_tokens_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^target_smoothing_special_tokens='3,x': wanted token ids, such as \[65\]"):
        pipeline(
            loss_modifiers_enabled=True, target_smoothing_enabled=True, target_smoothing_special_tokens="3,x"
        )  # fmt: skip


def test_both_options_for_the_mask_ratio_weight_together_are_refused() -> None:
    both = {"mask_ratio_weight_enabled": True, "weight_loss_by_mask_ratio": True}

    with pytest.raises(ConfigError, match="^mask_ratio_weight_enabled and weight_loss_by_mask_ratio are one modifier"):
        pipeline(loss_modifiers_enabled=True, **both)
    assert len(pipeline(**both).modifiers) == 1
