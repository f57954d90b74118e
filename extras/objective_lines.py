"""The train_run line's additional lines on the console, for runs that learn something else than the next token."""

from core.logger import Logger, Metrics

PENALTY = "loss_modifiers/EntropyPenaltyModifier."


class ObjectiveLines(Logger):
    """Prints what objectives and loss modifiers measure, below nanoGPT's lines.

    max_entropy_penalty: where the entropy penalty ends
    """

    def __init__(self, training_type: str, max_entropy_penalty: float) -> None:
        self.training_type = training_type
        self.max_entropy_penalty = max_entropy_penalty
        self.penalty = ""  # the line about it that was printed last

    def log_step(self, metrics: Metrics) -> None:
        """Print the masked positions per sequence, the entropy penalty, the scorer's mean error."""
        if "mask_counts/mean" in metrics:
            parts = ", ".join(f"{name}={metrics[f'mask_counts/{name}']:.6f}" for name in ("mean", "var", "min", "max"))
            _say(f"mask_counts ({self.training_type}): {parts}")
        if metrics.get(f"{PENALTY}entropy_penalty", 0) > 0:
            penalty, ema = metrics[f"{PENALTY}entropy_penalty"], metrics[f"{PENALTY}multiplier_ema"]
            self.penalty = (
                f"entropy_penalty: {penalty:.4f}, multiplier_ema: {ema:.4f} (max: {self.max_entropy_penalty})"
            )
            _say(self.penalty)
        if "ratio" in metrics:
            _say(f"ratio {metrics['ratio']:.3f}")

    def log_eval(self, metrics: Metrics) -> None:
        """Print how the validation data came out."""
        known = {name.removeprefix("val/"): value for name, value in metrics.items()}
        if self.penalty:
            _say(self.penalty)
        if "model vs random" in known:
            _say("val model vs random: {model vs random:.2f}x better".format(**known))
            _say("val avg correct prob: {avg correct prob:.4f} (random: {random prob:.4f})".format(**known))
            _say("val signal to noise: {signal to noise:.2f} (median: {signal to noise median:.2f})".format(**known))
            _say("Most likely guess correct P %: {most likely accuracy:.1f}%".format(**known))
        stages = [name.split("_")[1] for name in known if name.startswith("stage_") and name.endswith("_loss")]
        for stage in stages:
            loss, samples = known[f"stage_{stage}_loss"], known[f"stage_{stage}_samples"]
            _say(f"val stage {stage}: loss {loss:.4f} ({samples:.0f} samples)")
        if "f1" in known:
            _say("val f1 {f1:.4f}, precision {precision:.4f}, recall {recall:.4f}".format(**known))
            _say("val accuracy {accuracy:.4f}".format(**known))
            _say("always the majority class: f1 {majority_f1:.4f}, accuracy {majority_accuracy:.4f}".format(**known))
        if "correlation" in known:
            _say("val correlation {correlation:.4f}".format(**known))
            _say("val mse {mse:.6f}, {mse_ratio:.3f} of the constant predictor's".format(**known))
        if "zero_mean" in known:
            _say("val untouched texts: mean score {zero_mean:.4f}, 90 % below {zero_p90:.4f}".format(**known))


def _say(line: str) -> None:
    print(f"  {line}", flush=True)
