"""How a model spreads its belief over the answers that are wrong."""

import torch

from loss_modifiers.base import widened


def entropy(logits: torch.Tensor, targets: torch.Tensor, eps: float = 1e-9) -> torch.Tensor:
    """Return (B, T): the entropy, in nats, of the wrong answers' probabilities scaled to a sum of 1."""
    probs, rest = _wrong(logits, targets)
    some = rest > eps
    probs = probs / rest.masked_fill(~some, 1.0).unsqueeze(-1)
    return -(probs * (probs + eps).log()).sum(dim=-1).masked_fill(~some, 0.0)


def relative_entropy(logits: torch.Tensor, targets: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """Return (B, T) in [0, 1]: the entropy divided by the log of the number of wrong answers above eps; 0 for one."""
    probs, rest = _wrong(logits, targets)
    probs = probs / (rest + eps).unsqueeze(-1)
    count = (probs > eps).sum(dim=-1)
    share = -(probs * (probs + eps).log()).sum(dim=-1) / count.clamp(min=2).to(probs.dtype).log()
    return share.clamp(0.0, 1.0).masked_fill((count < 2) | (rest <= eps), 0.0)


def _wrong(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    answers = targets.clamp(0, logits.size(-1) - 1).unsqueeze(-1)
    probs = widened(logits).softmax(dim=-1).scatter(-1, answers, 0.0)  # (B, T, V), 0 at the right answer
    return probs, probs.sum(dim=-1)
