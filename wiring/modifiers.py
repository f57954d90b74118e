"""The loss modifiers that the options ask for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import loss_modifiers as lm
from core.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from config.options import Options

log = logging.getLogger("coregpt")
# load_judge(a checkpoint's path, whether it was trained on transformed shares if it does not say so)
LoadJudge = Callable[[str, bool], lm.Judge]

# the order in which modifiers are applied: on positions, on sequences, on a scorer's scores
ORDER = (
    "target_smoothing",
    "label_smoothing",
    "z_loss",
    "entropy",
    "entropy_penalty",
    "mask_ratio",
    "judge_weight",
    "judge_factor",
    "variance",
    "correlation",
    "collector",
)


def create_loss_modifier_pipeline(
    options: Options, *, special: Sequence[int], device: torch.device, rank: int, load_judge: LoadJudge
) -> lm.LossModifierPipeline:
    """Return the modifiers that the options ask for, in their fixed order, as far as they fit the training type.

    The core line's modifiers need `loss_modifiers_enabled`; those of the train_run line (`uncertainty_factor`,
    `z_loss_weight` and others) do not.

    special:    token ids that are no text
    load_judge: loads the frozen scorer of a modifier that judges
    """
    idle = [name for name in type(options).model_fields if name.endswith("_enabled") and getattr(options, name)]
    if idle and not options.loss_modifiers_enabled:
        log.warning(f"{', '.join(idle)}: without effect, as loss_modifiers_enabled=False")
    chosen = _train_run_line(options, special, load_judge)
    if options.loss_modifiers_enabled:
        if options.mask_ratio_weight_enabled and options.weight_loss_by_mask_ratio:
            raise ConfigError(
                "mask_ratio_weight_enabled and weight_loss_by_mask_ratio are one modifier with different limits: "
                "set one of them to False"
            )
        chosen |= {**_core_line(options), **_judge_weight(options, device, rank, load_judge)}
    return lm.LossModifierPipeline(
        [chosen[name] for name in ORDER if name in chosen and _applies(type(chosen[name]), options)]
    )


def _core_line(options: Options) -> dict[str, lm.LossModifier]:
    chosen: dict[str, lm.LossModifier] = {}
    if options.target_smoothing_enabled:
        chosen["target_smoothing"] = lm.TargetSmoothingModifier(
            options.target_smoothing_factor,
            _token_ids(options.target_smoothing_special_tokens),
            options.target_smoothing_exclude_padding,
            options.target_smoothing_padding_token,
        )
    if options.entropy_modifier_enabled:
        chosen["entropy"] = lm.EntropyModifier(
            options.entropy_modifier_weight, options.entropy_modifier_threshold, options.entropy_modifier_eps
        )
    if options.mask_ratio_weight_enabled:
        chosen["mask_ratio"] = lm.MaskRatioWeightModifier(
            options.mask_ratio_weight_power,
            options.mask_ratio_weight_min,
            options.mask_ratio_weight_max,
            options.mask_ratio_weight_eps,
        )
    if options.sequence_variance_enabled:
        chosen["variance"] = lm.SequenceScorerVarianceModifier(
            options.sequence_variance_scale, options.sequence_variance_alpha, options.sequence_variance_eps
        )
    if options.sequence_correlation_enabled:
        chosen["correlation"] = lm.SequenceScorerCorrelationModifier(
            options.sequence_correlation_alpha, options.sequence_correlation_eps
        )
    if options.seq_scorer_log_abs_rel_err and options.training_type == "sequence_scoring":  # on by default
        chosen["collector"] = lm.MetricsCollectorModifier(
            options.sequence_metrics_ema_alpha, options.sequence_metrics_eps
        )
    return chosen


def _judge_weight(
    options: Options, device: torch.device, rank: int, load_judge: LoadJudge
) -> dict[str, lm.LossModifier]:
    if not options.judge_weight_modifier_enabled or not _applies(lm.SequenceScoringJudgeWeightModifier, options):
        return {}
    _warn_of_late_start(options, "judge_start_iter")
    judge = load_judge(_judge_path(options, "judge_weight_checkpoint"), True)
    modifier = lm.SequenceScoringJudgeWeightModifier(
        judge,
        start_iter=options.judge_start_iter,
        max_iter=options.judge_max_iter,
        exponent=options.judge_weight_exponent,
        min_factor=options.judge_weight_min_factor,
        max_factor=options.judge_weight_max_factor,
        eps=options.judge_weight_eps,
        device=device,
        seed=options.seed + rank,
    )
    return {"judge_weight": modifier}


def _applies(modifier: type[lm.LossModifier], options: Options) -> bool:
    """Return whether a modifier fits the training type; warn if not."""
    if options.training_type in modifier.training_types:
        return True
    log.warning(f"{modifier.__name__}: not for training_type={options.training_type}, without effect")
    return False


def _warn_of_late_start(options: Options, name: str) -> None:
    if (start := getattr(options, name)) >= options.max_iters > 0:
        log.warning(f"{name}={start}: without effect, as max_iters={options.max_iters}")


def _judge_path(options: Options, name: str) -> str:
    path: str = getattr(options, name)
    if not path:
        raise ConfigError(f"a judge is needed: set {name} to the folder of a sequence_scoring run, such as out")
    return path


def _train_run_line(options: Options, special: Sequence[int], load_judge: LoadJudge) -> dict[str, lm.LossModifier]:
    chosen: dict[str, lm.LossModifier] = {}
    if options.uncertainty_factor:
        chosen["label_smoothing"] = lm.LabelSmoothingModifier(options.uncertainty_factor, special)
    if options.z_loss_weight:
        chosen["z_loss"] = lm.ZLossModifier(options.z_loss_weight)
    if options.enable_entropy_penalty:
        _warn_of_late_start(options, "entropy_penalty_start_iter")
        chosen["entropy_penalty"] = lm.EntropyPenaltyModifier(
            options.max_entropy_penalty, options.entropy_penalty_start_iter, int(options.max_iters)
        )
    if options.weight_loss_by_mask_ratio:
        chosen["mask_ratio"] = lm.MaskRatioWeightModifier(0.5, 0.0, float("inf"))
    if options.enable_judge_model and _applies(lm.JudgeFactorModifier, options):
        judge = load_judge(_judge_path(options, "judge_model_checkpoint"), False)
        chosen["judge_factor"] = lm.JudgeFactorModifier(judge)
    return chosen


def _token_ids(tokens: list[int] | str) -> list[int]:
    """Return token ids, from a list or from a text with commas."""
    if not isinstance(tokens, str):
        return tokens
    try:
        return [int(part) for part in tokens.strip("[]").split(",") if part.strip()]
    except ValueError:
        raise ConfigError(
            f"target_smoothing_special_tokens={tokens!r}: wanted token ids, such as [65] or '65,66'"
        ) from None
