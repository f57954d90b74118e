"""Judges whether an update is stable."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import torch

RECENT = 8  # losses kept for a diagnosis
LASTING_OVERFLOW = 32  # overflows in a row, each of which halves the loss scale
NOT_FINITE = "a weight or a moment of the optimizer is not finite"
NORMAL = 1.4826  # a normal distribution's standard deviation, in median absolute deviations


class InstabilityDetector:
    """Inspects every update before it is made. Its flags stay on the device: nothing waits for them.

    loss_scaling:    gradients are scaled float16; the scaler skips an update that overflows, so overflow is unstable
                     only if it lasts
    spike_threshold: a loss or gradient norm this many robust standard deviations above the median of the last
                     `spike_window` stable updates is a spike; 0 disables
    warmup_iters:    updates in which nothing counts as a spike, because losses and norms change fast in warmup
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
        """Return one flag per cause, each a bool () on the device, True if the update is unstable.

        loss:    mean over the update's micro-batches
        metrics: what the objective reports; its `finite`, if it has one, is zero if it met a non-finite number
        """
        self._move_to(loss.device)
        self.recent.append(loss)
        loss_is_stable = self.check_loss_stability(loss)
        gradient_is_stable = self.check_gradient_stability(grad_norm)
        reported = ~metrics["finite"].bool().all() if "finite" in metrics else self._no
        spikes = self.check_spikes(loss, grad_norm) if self.spike_threshold else [self._no, self._no]
        self.seen += 1
        return [~loss_is_stable, ~gradient_is_stable, reported, *spikes]

    def causes(self, flags: Sequence[bool]) -> str | None:
        """Return the causes whose flags are set as a text, or None."""
        return " and ".join(cause for cause, flag in zip(self.CAUSES, flags, strict=True) if flag) or None

    def check_loss_stability(self, loss: torch.Tensor) -> torch.Tensor:
        """Return a bool () on the device: the loss is finite."""
        return torch.isfinite(loss)

    def check_gradient_stability(self, grad_norm: torch.Tensor) -> torch.Tensor:
        """Return a bool () on the device: the gradient is finite, or overflows in a way that the scaler handles."""
        finite = torch.isfinite(grad_norm)
        if not self.loss_scaling:
            return finite
        self.overflows = (self.overflows + 1) * ~finite
        return self.overflows < LASTING_OVERFLOW

    def check_logits_stability(self, logits: torch.Tensor) -> torch.Tensor:
        """Return a bool () on the device: all logits are finite."""
        return torch.isfinite(logits).all()

    def check_parameter_stability(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Return whether every number in the tensors is finite; waits for the device."""
        numbers = [tensor for tensor in tensors if tensor.is_floating_point()]
        # a finite sum has finite terms and is four times as quick to check; a sum that is not may have overflowed
        sums = [torch.isfinite(tensor.sum()) for tensor in numbers]
        return all(
            is_finite.item() or bool(torch.isfinite(tensor).all())
            for is_finite, tensor in zip(sums, numbers, strict=True)
        )

    def check_validation_stability(self, losses: dict[str, torch.Tensor]) -> bool:
        """Return whether the mean loss of every split is finite."""
        return all(bool(torch.isfinite(loss)) for loss in losses.values())

    def check_spikes(self, loss: torch.Tensor, grad_norm: torch.Tensor) -> list[torch.Tensor]:
        """Return two bools () on the device: the loss, and the gradient norm, spike above those of recent updates."""
        values = torch.stack([loss, grad_norm]).float()
        median = self.window.median(dim=1).values
        deviation = (self.window - median[:, None]).abs().median(dim=1).values * NORMAL
        # without the second term any change after a window of equal values would be a spike
        high = median + self.spike_threshold * (deviation + 1e-3 * median.abs())
        finite = torch.isfinite(values)  # non-finite values are another cause
        spiked = finite & (values > high)
        if self.seen < max(self.spike_window, self.warmup_iters):
            spiked = torch.zeros_like(spiked)
        ordinary = finite & ~spiked
        self.window[:, self.seen % self.spike_window] = torch.where(ordinary, values, median)
        return list(spiked)

    def snapshot(self) -> dict[str, Any]:
        """Return the numbers that the next verdict depends on; the tensors stay on the device."""
        return {"seen": self.seen, "window": self.window.clone(), "overflows": self.overflows.clone()}

    def state_dict(self, snapshot: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return a snapshot, by default of now, as a checkpoint keeps it."""
        state = snapshot or self.snapshot()
        return {**state, "window": state["window"].cpu(), "overflows": int(state["overflows"])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` or `snapshot` returned; a window of another size starts empty."""
        self.recent.clear()
        self.overflows.fill_(state["overflows"])
        self.seen = 0
        if state["window"].shape == self.window.shape:
            self.window.copy_(state["window"])
            self.seen = state["seen"]

    def _move_to(self, device: torch.device) -> None:
        if self._no.device != device:
            self._no, self.window, self.overflows = (
                tensor.to(device) for tensor in (self._no, self.window, self.overflows)
            )
