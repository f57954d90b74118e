"""The additional lines of objectives: each is printed only if its metrics are reported."""

import pytest

from extras.objective_lines import ObjectiveLines

PENALTY = "loss_modifiers/EntropyPenaltyModifier."


@pytest.fixture
def lines() -> ObjectiveLines:
    return ObjectiveLines("unmasking", max_entropy_penalty=0.5)


def test_metrics_of_a_language_model_print_no_line(lines: ObjectiveLines, capsys: pytest.CaptureFixture[str]) -> None:
    lines.log_step({"iter": 3, "loss": 2.0, "time_ms": 1.0, "mfu": 0.0, "finite": 1.0})
    lines.log_eval({"iter": 3, "train/loss": 2.0, "val/loss": 2.5, "lr": 1e-3})

    assert capsys.readouterr().out == ""


def test_mask_counts_are_printed(lines: ObjectiveLines, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"mean": 3.25, "var": 1.5, "min": 2.0, "max": 5.0}

    lines.log_step({f"mask_counts/{name}": value for name, value in counts.items()})

    assert capsys.readouterr().out == (
        "  mask_counts (unmasking): mean=3.250000, var=1.500000, min=2.000000, max=5.000000\n"
    )


def test_the_entropy_penalty_is_printed_once_it_is_positive(
    lines: ObjectiveLines, capsys: pytest.CaptureFixture[str]
) -> None:
    lines.log_step({f"{PENALTY}entropy_penalty": 0.0, f"{PENALTY}multiplier_ema": 1.0})
    assert capsys.readouterr().out == ""

    lines.log_step({f"{PENALTY}entropy_penalty": 0.25, f"{PENALTY}multiplier_ema": 1.0625})
    lines.log_eval({"iter": 3, "train/loss": 2.0, "val/loss": 2.5, "lr": 1e-3})
    assert capsys.readouterr().out == 2 * "  entropy_penalty: 0.2500, multiplier_ema: 1.0625 (max: 0.5)\n"


def test_the_mean_error_of_scores_is_printed(lines: ObjectiveLines, capsys: pytest.CaptureFixture[str]) -> None:
    lines.log_step({"ratio": 0.1256})

    assert capsys.readouterr().out == "  ratio 0.126\n"


def test_metrics_of_an_unmasking_evaluation_are_printed(
    lines: ObjectiveLines, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {
        "model vs random": 3.456, "avg correct prob": 0.12345, "random prob": 0.0125, "signal to noise": 1.234,
        "signal to noise median": 0.5, "most likely accuracy": 43.21, "val/stage_0_loss": 2.5,
        "val/stage_0_samples": 20, "val/stage_10_loss": 1.25, "val/stage_10_samples": 19, "masked_token_ratio": 0.4,
    }  # fmt: skip

    lines.log_eval({"train/loss": 2.0, "val/loss": 2.5, **metrics})

    assert capsys.readouterr().out.splitlines() == [
        "  val model vs random: 3.46x better",
        "  val avg correct prob: 0.1235 (random: 0.0125)",
        "  val signal to noise: 1.23 (median: 0.50)",
        "  Most likely guess correct P %: 43.2%",
        "  val stage 0: loss 2.5000 (20 samples)",
        "  val stage 10: loss 1.2500 (19 samples)",
    ]


def test_metrics_of_a_token_classification_evaluation_are_printed(
    lines: ObjectiveLines, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("f1", "precision", "recall", "accuracy", "majority_f1", "majority_accuracy")

    lines.log_eval({f"val/{name}": (number + 1) / 8 for number, name in enumerate(names)})

    assert capsys.readouterr().out.splitlines() == [
        "  val f1 0.1250, precision 0.2500, recall 0.3750",
        "  val accuracy 0.5000",
        "  always the majority class: f1 0.6250, accuracy 0.7500",
    ]


def test_metrics_of_a_sequence_scoring_evaluation_are_printed(
    lines: ObjectiveLines, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {"val/mse": 0.0125, "val/mse_ratio": 0.5, "val/correlation": 0.75}

    lines.log_eval(metrics)
    assert capsys.readouterr().out.splitlines() == [
        "  val correlation 0.7500",
        "  val mse 0.012500, 0.500 of the constant predictor's",
    ]

    lines.log_eval({**metrics, "val/zero_mean": 0.0625, "val/zero_p90": 0.125})
    assert capsys.readouterr().out.splitlines()[2:] == ["  val untouched texts: mean score 0.0625, 90 % below 0.1250"]
