"""Judges whether training is still sound. It never acts: the trainer does."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import torch

RECENT = 8  # losses kept for whoever wants to know how it came to this
LASTING_OVERFLOW = 32  # a loss scale halved this often in a row has nothing left to give
NORMAL = 1.4826  # a normal distribution's standard deviation, in median absolute deviations


class InstabilityDetector:
    """Looks at every update before it is made. All its flags stay on the device: nothing waits for them.

    loss_scaling:    gradients are scaled float16; one that overflows is left out by the scaler, and unsound only when
                     that does not end
    spike_threshold: a loss or gradient norm this many robust standard deviations above the median of the last
                     `spike_window` sound updates is a spike; 0 looks for none
    warmup_iters:    updates in which nothing is called a spike, as losses fall and norms jump while training warms up
    """

    CAUSES = (
        "the loss is not finite",
        "the gradient is not finite",
        "the objective met a number that is not finite",
        "the loss spiked",
        "the gradient norm spiked",
    )

    def __init__(
        self,
        *,
        loss_scaling: bool = False,
        spike_threshold: float = 0.0,
        spike_window: int = 100,
        warmup_iters: float = 0,
    ) -> None:
        self.loss_scaling = loss_scaling
        self.spike_threshold = spike_threshold
        self.spike_window = spike_window
        self.warmup_iters = warmup_iters
        self.recent: deque[torch.Tensor] = deque(maxlen=RECENT)
        self.seen = 0  # updates judged
        self.window = torch.zeros(2, spike_window if spike_threshold else 0)  # of losses and gradient norms
        self.overflows = torch.zeros((), dtype=torch.int32)  # in a row
        self._no = torch.tensor(False)

    def inspect(
        self, loss: torch.Tensor, grad_norm: torch.Tensor, metrics: dict[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        """Return one flag per cause, each a bool () on the device: this update is unsound.

        metrics: what the objective reports; its `finite`, if there, is zero where it met a number that is not finite
        """
        self._follow(loss.device)
        self.recent.append(loss)
        sound = self.check_loss_stability(loss)
        sane = self.check_gradient_stability(grad_norm)
        reported = ~metrics["finite"].bool().all() if "finite" in metrics else self._no
        spikes = self.check_spikes(loss, grad_norm) if self.spike_threshold else [self._no, self._no]
        self.seen += 1
        return [~sound, ~sane, reported, *spikes]

    def causes(self, flags: Sequence[bool]) -> str | None:
        """Say in words which flags are set, or None."""
        return " and ".join(cause for cause, flag in zip(self.CAUSES, flags, strict=True) if flag) or None

    def check_loss_stability(self, loss: torch.Tensor) -> torch.Tensor:
        """Return a flag on the device: the loss is finite."""
        return torch.isfinite(loss)

    def check_gradient_stability(self, grad_norm: torch.Tensor) -> torch.Tensor:
        """Return a flag on the device: the gradient is finite, or its overflow is still the scaler's business."""
        finite = torch.isfinite(grad_norm)
        if not self.loss_scaling:
            return finite
        self.overflows = (self.overflows + 1) * ~finite
        return self.overflows < LASTING_OVERFLOW

    def check_logits_stability(self, logits: torch.Tensor) -> torch.Tensor:
        """Return a flag on the device: all logits are finite. For those who have them at hand; a step does not ask."""
        return torch.isfinite(logits).all()

    def check_parameter_stability(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Tell whether every number in the tensors is finite, before a checkpoint is written; waits for the device."""
        numbers = [tensor for tensor in tensors if tensor.is_floating_point()]
        # a finite sum has finite terms, and is four times as quick; one that is not may just have overflowed
        sums = [torch.isfinite(tensor.sum()) for tensor in numbers]
        return all(
            sound.item() or bool(torch.isfinite(tensor).all()) for sound, tensor in zip(sums, numbers, strict=True)
        )

    def check_validation_stability(self, losses: dict[str, torch.Tensor]) -> bool:
        """Tell whether the mean loss of every split is finite."""
        return all(bool(torch.isfinite(loss)) for loss in losses.values())

    def check_spikes(self, loss: torch.Tensor, grad_norm: torch.Tensor) -> list[torch.Tensor]:
        """Return two flags on the device: the loss, and the gradient norm, stand out from the window of recent ones."""
        values = torch.stack([loss, grad_norm]).float()
        median = self.window.median(dim=1).values
        deviation = (self.window - median[:, None]).abs().median(dim=1).values * NORMAL
        # a window of equal values would make a spike of anything
        high = median + self.spike_threshold * (deviation + 1e-3 * median.abs())
        finite = torch.isfinite(values)  # what is not has a name of its own
        spiked = finite & (values > high)
        if self.seen < max(self.spike_window, self.warmup_iters):
            spiked = torch.zeros_like(spiked)
        ordinary = finite & ~spiked
        self.window[:, self.seen % self.spike_window] = torch.where(ordinary, values, median)
        return list(spiked)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next verdict depends on."""
        return {"seen": self.seen, "window": self.window.cpu().clone(), "overflows": self.overflows.item()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called; a window of another size is filled anew."""
        self.recent.clear()
        self.overflows.fill_(state["overflows"])
        self.seen = 0
        if state["window"].shape == self.window.shape:
            self.window.copy_(state["window"])
            self.seen = state["seen"]

    def _follow(self, device: torch.device) -> None:
        if self._no.device != device:
            self._no, self.window, self.overflows = (
                tensor.to(device) for tensor in (self._no, self.window, self.overflows)
            )
