"""The train_run line's additional console lines, for objectives other than the next token."""

from core.logger import Logger, Metrics

PENALTY = "loss_modifiers/EntropyPenaltyModifier."


class ObjectiveLines(Logger):
    """Prints metrics of objectives and loss modifiers below nanoGPT's lines.

    max_entropy_penalty: final value of the entropy penalty
    """

    def __init__(self, training_type: str, max_entropy_penalty: float) -> None:
        self.training_type = training_type
        self.max_entropy_penalty = max_entropy_penalty
        self.penalty_line = ""  # the last printed line about the penalty

    def log_step(self, metrics: Metrics) -> None:
        """Print the masked positions per sequence, the entropy penalty, and the mean error of scores."""
        if "mask_counts/mean" in metrics:
            parts = ", ".join(f"{name}={metrics[f'mask_counts/{name}']:.6f}" for name in ("mean", "var", "min", "max"))
            _print_line(f"mask_counts ({self.training_type}): {parts}")
        if metrics.get(f"{PENALTY}entropy_penalty", 0) > 0:
            penalty, ema = metrics[f"{PENALTY}entropy_penalty"], metrics[f"{PENALTY}multiplier_ema"]
            self.penalty_line = (
                f"entropy_penalty: {penalty:.4f}, multiplier_ema: {ema:.4f} (max: {self.max_entropy_penalty})"
            )
            _print_line(self.penalty_line)
        if "ratio" in metrics:
            _print_line(f"ratio {metrics['ratio']:.3f}")

    def log_eval(self, metrics: Metrics) -> None:
        """Print the validation metrics."""
        values = {name.removeprefix("val/"): value for name, value in metrics.items()}
        if self.penalty_line:
            _print_line(self.penalty_line)
        if "model vs random" in values:
            _print_line("val model vs random: {model vs random:.2f}x better".format(**values))
            _print_line("val avg correct prob: {avg correct prob:.4f} (random: {random prob:.4f})".format(**values))
            _print_line(
                "val signal to noise: {signal to noise:.2f} (median: {signal to noise median:.2f})".format(**values)
            )
            _print_line("Most likely guess correct P %: {most likely accuracy:.1f}%".format(**values))
        stages = [name.split("_")[1] for name in values if name.startswith("stage_") and name.endswith("_loss")]
        for stage in stages:
            loss, samples = values[f"stage_{stage}_loss"], values[f"stage_{stage}_samples"]
            _print_line(f"val stage {stage}: loss {loss:.4f} ({samples:.0f} samples)")
        if "f1" in values:
            _print_line("val f1 {f1:.4f}, precision {precision:.4f}, recall {recall:.4f}".format(**values))
            _print_line("val accuracy {accuracy:.4f}".format(**values))
            _print_line(
                "always the majority class: f1 {majority_f1:.4f}, accuracy {majority_accuracy:.4f}".format(**values)
            )
        if "correlation" in values:
            _print_line("val correlation {correlation:.4f}".format(**values))
            _print_line("val mse {mse:.6f}, {mse_ratio:.3f} of the constant predictor's".format(**values))
        if "zero_mean" in values:
            _print_line("val untouched texts: mean score {zero_mean:.4f}, 90 % below {zero_p90:.4f}".format(**values))


def _print_line(line: str) -> None:
    print(f"  {line}", flush=True)
