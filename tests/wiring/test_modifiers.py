"""Options to loss modifiers: each option reaches its place, and the order is the same whatever is chosen."""

import math
from typing import Any

import pytest
import torch

import loss_modifiers as lm
from config.options import Options
from core.errors import ConfigError
from wiring.modifiers import create_loss_modifier_pipeline

CORE_LINE = {  # what enables a modifier of the core line, and its class
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
    """Return the options of a run that a modifier of the core line is for, without the figures of a scorer."""
    scoring = enabled.startswith("sequence_")
    return {"training_type": "sequence_scoring", "seq_scorer_log_abs_rel_err": False} if scoring else {}


def only(name: str, **options: Any) -> Any:
    (found,) = (modifier for modifier in pipeline(**options).modifiers if type(modifier).__name__ == name)
    return found


# which ones there are


@pytest.mark.parametrize("training_type", TYPES)
def test_by_default_there_are_none(training_type: str) -> None:
    assert pipeline(training_type).is_empty()


@pytest.mark.parametrize("training_type", TYPES[:3])
def test_enabling_them_altogether_adds_none_by_itself(training_type: str) -> None:
    """So that the model's own fused loss is used untouched."""
    assert pipeline(training_type, loss_modifiers_enabled=True).is_empty()


def test_a_scorer_has_its_figures_taken_unless_they_are_unwanted() -> None:
    names = pipeline("sequence_scoring", loss_modifiers_enabled=True).get_enabled_modifier_names()
    unwanted = pipeline("sequence_scoring", loss_modifiers_enabled=True, seq_scorer_log_abs_rel_err=False)

    assert names == ["MetricsCollectorModifier"] and unwanted.is_empty()


@pytest.mark.parametrize(("option", "name"), CORE_LINE.items())
def test_one_of_the_core_line_needs_two_options(option: str, name: str) -> None:
    options = {**PATHS, **training_type(option), option: True}

    assert pipeline(**options).is_empty()
    assert pipeline(**options, loss_modifiers_enabled=True).get_enabled_modifier_names() == [name]


@pytest.mark.parametrize("option", TRAIN_RUN_LINE)
def test_one_of_the_train_run_line_needs_its_own_option_alone(option: str) -> None:
    value, name = TRAIN_RUN_LINE[option]

    assert pipeline(**{option: value}, **PATHS).get_enabled_modifier_names() == [name]


def test_all_of_them_stack_in_their_fixed_order() -> None:
    everything: dict[str, Any] = dict.fromkeys(CORE_LINE, True)
    everything |= {name: value for name, (value, _) in TRAIN_RUN_LINE.items() if name != "weight_loss_by_mask_ratio"}

    filling, scoring = (
        pipeline(kind, loss_modifiers_enabled=True, **everything, **PATHS).get_enabled_modifier_names()
        for kind in ("unmasking", "sequence_scoring")
    )

    first, judges, last = (
        ["TargetSmoothingModifier", "LabelSmoothingModifier", "ZLossModifier", "EntropyModifier",
         "EntropyPenaltyModifier", "MaskRatioWeightModifier"],
        ["SequenceScoringJudgeWeightModifier", "JudgeFactorModifier"],
        ["SequenceScorerVarianceModifier", "SequenceScorerCorrelationModifier"],
    )  # fmt: skip
    assert filling == [*first, *judges]
    assert scoring == [*last, "MetricsCollectorModifier"]


def test_a_judge_is_not_looked_for_where_nobody_asks_it(caplog: pytest.LogCaptureFixture) -> None:
    judging = {"enable_judge_model": True, "loss_modifiers_enabled": True, "judge_weight_modifier_enabled": True}

    assert pipeline("token_classification", **judging).is_empty()  # though no checkpoint is named
    assert caplog.messages == [
        f"{name}: not for training_type=token_classification, without effect"
        for name in ("JudgeFactorModifier", "SequenceScoringJudgeWeightModifier")
    ]


def test_a_modifier_that_would_begin_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    pipeline(enable_entropy_penalty=True, entropy_penalty_start_iter=9, max_iters=10)
    assert caplog.messages == []
    pipeline(enable_entropy_penalty=True, entropy_penalty_start_iter=10, max_iters=10)
    judging = {"loss_modifiers_enabled": True, "judge_weight_modifier_enabled": True, "judge_weight_checkpoint": "one"}
    pipeline(**judging, judge_start_iter=11, judge_max_iter=12, max_iters=10)
    assert caplog.messages == [
        "entropy_penalty_start_iter=10: without effect, as max_iters=10",
        "judge_start_iter=11: without effect, as max_iters=10",
    ]


# where the options arrive

REACHES = [  # option, value, what enables it, class, attribute
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


@pytest.mark.parametrize(("option", "value", "enabled", "attribute"), REACHES)
def test_an_option_of_the_core_line_arrives(option: str, value: Any, enabled: str, attribute: str) -> None:
    settings = {"judge_max_iter": 70, **PATHS, "loss_modifiers_enabled": True, **training_type(enabled), enabled: True}
    known = getattr(only(CORE_LINE[enabled], **settings), attribute)

    assert getattr(only(CORE_LINE[enabled], **{**settings, option: value}), attribute) == value
    assert option == "judge_max_iter" or known != value  # it is this option that made it so


def test_the_limits_of_the_judges_weight_arrive() -> None:
    modifier = only(
        "SequenceScoringJudgeWeightModifier", loss_modifiers_enabled=True, judge_weight_modifier_enabled=True,
        judge_weight_min_factor=0.5, judge_weight_max_factor=2.0, **PATHS,
    )  # fmt: skip

    assert modifier.limits == (0.5, 2.0)


def test_the_options_of_the_collector_arrive() -> None:
    found = only(
        "MetricsCollectorModifier", training_type="sequence_scoring", loss_modifiers_enabled=True,
        sequence_metrics_ema_alpha=0.25, sequence_metrics_eps=1e-3,
    )  # fmt: skip
    found.modify(*(torch.tensor([value]) for value in (0.0, 0.5, 1.0, True)))
    found.modify(*(torch.tensor([value]) for value in (0.0, 1.0, 1.0, True)))

    assert found.metrics()["aare_ema"].item() == pytest.approx(0.5 * 0.75)
    assert found.eps == 1e-3


def test_the_options_of_the_train_run_line_arrive() -> None:
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


def test_each_judge_is_the_one_of_its_own_checkpoint() -> None:
    both = {**PATHS, "loss_modifiers_enabled": True, "judge_weight_modifier_enabled": True, "enable_judge_model": True}
    weight, factor = (only(f"{name}Modifier", **both) for name in ("SequenceScoringJudgeWeight", "JudgeFactor"))

    assert (weight.judge.block_size, factor.judge.block_size) == (8, 9)
    assert (weight.judge.transformed, factor.judge.transformed) == (True, False)  # as each line trained its scorers


def test_every_rank_and_seed_draws_differently_for_the_judge() -> None:
    settings = {**PATHS, "loss_modifiers_enabled": True, "judge_weight_modifier_enabled": True}
    name = "SequenceScoringJudgeWeightModifier"

    seeds = [only(name, **settings, rank=rank, seed=5).generator.initial_seed() for rank in (0, 1)]

    assert seeds == [5, 6]


@pytest.mark.parametrize(
    ("tokens", "ids"), [([3, 5], (3, 5)), ("3,5", (3, 5)), ("[3, 5]", (3, 5)), ("", ()), ([], ()), ("3", (3,))]
)
def test_special_tokens_are_a_list_or_a_text_with_commas(tokens: Any, ids: tuple[int, ...]) -> None:
    settings = {"loss_modifiers_enabled": True, "target_smoothing_enabled": True}

    found = only("TargetSmoothingModifier", **settings, target_smoothing_special_tokens=tokens)

    assert tuple(found.special_tokens) == ids


def test_no_option_of_the_section_is_forgotten() -> None:
    """Whoever adds one is asked here to show where it arrives."""
    shown = {option for option, *_ in REACHES} | set(CORE_LINE) | set(TRAIN_RUN_LINE) | set(PATHS)
    shown |= {
        "loss_modifiers_enabled", "target_smoothing_special_tokens", "judge_weight_min_factor",
        "judge_weight_max_factor", "seq_scorer_log_abs_rel_err", "sequence_metrics_ema_alpha", "sequence_metrics_eps",
        "max_entropy_penalty", "entropy_penalty_start_iter",
    }  # fmt: skip

    assert set(Options.sections()["modifiers"]) == shown


# what cannot be


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


def test_special_tokens_that_are_none() -> None:
    with pytest.raises(ConfigError, match=r"^target_smoothing_special_tokens='3,x': wanted token ids, such as \[65\]"):
        pipeline(
            loss_modifiers_enabled=True, target_smoothing_enabled=True, target_smoothing_special_tokens="3,x"
        )  # fmt: skip


def test_two_weights_by_mask_ratio_are_one_too_many() -> None:
    both = {"mask_ratio_weight_enabled": True, "weight_loss_by_mask_ratio": True}

    with pytest.raises(ConfigError, match="^mask_ratio_weight_enabled and weight_loss_by_mask_ratio are one modifier"):
        pipeline(loss_modifiers_enabled=True, **both)
    assert len(pipeline(**both).modifiers) == 1
