"""JudgeFactorModifier: more weight for sequences whose reconstruction a judge scores worse than average."""

import torch

from core.errors import ConfigError
from core.losses import mean_loss, per_sequence
from loss_modifiers.base import LossModifier, sample_std
from loss_modifiers.judge import Judge

MAX_FACTOR = 10.0  # before normalisation


class JudgeFactorModifier(LossModifier):
    """Weights each sequence by judge's score / min(expected score + 0.1, 1); the weights are normalised to a mean of 1.

    The expected score is that of the masked fraction. The judge scores the most likely tokens at masked positions and
    the original tokens elsewhere, which are read from `inputs`; `inputs` must be set before each call. A row without a
    masked position does not count in the normalisation.
    """

    training_types = ("unmasking",)

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def modify(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the weighted losses (B,)."""
        if self.inputs is None:
            raise ConfigError(
                "JudgeFactorModifier needs the masked inputs, but the objective did not set `inputs`: "
                "use it with the unmasking objective"
            )
        tokens = torch.where(mask, logits.detach().argmax(dim=-1), self.inputs)
        predicted = self.judge(tokens)
        real = mask.float().mean(dim=1)
        factor = (predicted / (self.judge.expected(real) + 0.1).clamp(max=1.0)).clamp(0.0, MAX_FACTOR)
        mean = mean_loss(factor.detach(), mask)
        factor = torch.where(mean > 1e-8, factor / mean, 1.0)
        self._metrics = {}
        for name, values in (("predicted_ratio", predicted), ("real_ratio", real), ("wrongness", factor)):
            self._metrics |= {f"{name}_mean": values.mean(), f"{name}_std": sample_std(values)}
        return per_sequence(loss, mask) * factor
