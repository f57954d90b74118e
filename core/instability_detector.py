"""Judges whether training is still sound. It never acts: the trainer does."""

from collections.abc import Callable

import torch

from core.training_step import StepResult


class InstabilityDetector:
    """Looks at every update and says what is wrong with it, or nothing.

    On a CPU the verdict is on the update just made. On a GPU it is on the one before: its flags are copied while the
    GPU works on the next, so that nothing waits.

    any_rank:     sets in place the int32 flags that any rank has set, so that all ranks get the same verdict
    loss_scaling: gradients are scaled float16; overflowing ones are left out by the scaler and are no instability
    """

    CAUSES = ("the loss is not finite", "the gradient is not finite")

    def __init__(
        self, any_rank: Callable[[torch.Tensor], torch.Tensor] = lambda flags: flags, loss_scaling: bool = False
    ) -> None:
        self.any_rank = any_rank
        self.loss_scaling = loss_scaling
        self._pending: tuple[torch.Tensor, torch.cuda.Event] | None = None

    def judge(self, result: StepResult) -> str | None:
        """Return what is wrong with the update just made (on a GPU: with the one before), or None."""
        sound = self.check_loss_stability(result.loss)
        sane = torch.ones_like(sound) if result.grad_norm is None else self.check_gradient_stability(result.grad_norm)
        flags = self.any_rank((~torch.stack([sound, sane])).int())
        if not flags.is_cuda:
            return self._cause(flags)
        verdict = self.settle()
        host = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
        host.copy_(flags, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        self._pending = host, copied
        return verdict

    def settle(self) -> str | None:
        """Return the verdict that is still on its way, waiting for it: before a checkpoint is written."""
        if self._pending is None:
            return None
        (flags, copied), self._pending = self._pending, None
        copied.synchronize()
        return self._cause(flags)

    def check_loss_stability(self, loss: torch.Tensor) -> torch.Tensor:
        """Return a flag on the device: the loss is finite."""
        return torch.isfinite(loss)

    def check_gradient_stability(self, grad_norm: torch.Tensor) -> torch.Tensor:
        """Return a flag on the device: the gradient is finite, or its overflow is the scaler's business."""
        return torch.isfinite(grad_norm) | self.loss_scaling

    def check_validation_stability(self, losses: dict[str, torch.Tensor]) -> bool:
        """Tell whether the mean loss of every split is finite."""
        return all(bool(torch.isfinite(loss)) for loss in losses.values())

    def _cause(self, flags: torch.Tensor) -> str | None:
        causes = [cause for cause, flag in zip(self.CAUSES, flags.tolist(), strict=True) if flag]
        return " and ".join(causes) or None
